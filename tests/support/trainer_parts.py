"""Small datasets, a journal in memory and plans, for tests of the trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from services.store.records import CheckpointRecord, Control, Hyperparameters, StepRecord
from services.trainer.backend import Adapter, Backend
from services.trainer.batches.batching import MOST_CALL_TOKENS, Batches
from services.trainer.batches.mixing import Part
from services.trainer.batches.rows import Row
from services.trainer.checkpoints import probe_rows
from services.trainer.evaluation import Patience
from services.trainer.loop import Gauge, Run, RunSpec
from services.trainer.tuft import TuftSettings
from tests.fakes.fake_tuft import FakeTuft

SMALL = Adapter("turnloom/fake", rank=4, train_mlp=True, train_attn=True, train_unembed=True)


def row(conversation: int, tokens: Sequence[int], weights: Sequence[float]) -> Row:
    """A row by its tokens and weights; one byte a trained token."""
    trained = sum(1 for weight in weights if weight)
    return Row(conversation, np.array(tokens, np.int32), np.array(weights, np.float32), trained)


def conversations(count: int, seed: int = 0, vocabulary: int = 50) -> list[Row]:
    """Rows of 4 to 20 tokens whose second half is trained; every third conversation has two rows."""
    draws = np.random.default_rng(seed)
    rows: list[Row] = []
    for conversation in range(count):
        for _ in range(2 if conversation % 3 == 0 else 1):
            length = int(draws.integers(4, 21))
            tokens = draws.integers(0, vocabulary, length)
            weights = [0.0 if place < length // 2 else 1.0 for place in range(length - 1)]
            rows.append(row(conversation, tokens.tolist(), weights))
    return rows


def batches(rows: Sequence[Row], batch_size: int, seed: int = 0) -> Batches:
    return Batches([Part(rows, [one.conversation for one in rows])], batch_size, seed)


def plan(
    hyperparameters: Hyperparameters,
    *,
    train: Sequence[Row] | None = None,
    test: Sequence[Row] = (),
    attempt: int = 1,
    ceiling: int = MOST_CALL_TOKENS,
    job: str = "job-test",
    packs: bool = False,
) -> RunSpec:
    train = conversations(12) if train is None else train
    made = batches(train, hyperparameters.batch_size, hyperparameters.seed)
    steps = hyperparameters.max_steps or hyperparameters.epochs * made.steps_per_epoch
    probe = probe_rows(test or train, hyperparameters.seed)
    return RunSpec(job, attempt, hyperparameters, made, steps, test, probe, ceiling, packs)


@dataclass
class MemoryJournal:
    """A Journal that keeps everything and asks what a test wants."""

    asks: Callable[[MemoryJournal], Control] = lambda _journal: Control.NONE
    steps: list[StepRecord] = field(default_factory=list)
    checkpoints: list[CheckpointRecord] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)

    def step(self, record: StepRecord) -> None:
        self.steps.append(record)

    def checkpoint(self, record: CheckpointRecord) -> None:
        self.checkpoints.append(record)

    def control(self) -> Control:
        return self.asks(self)

    def event(self, level: str, kind: str, message: str, **fields: str) -> None:
        self.events.append((kind, message))

    @property
    def series(self) -> list[tuple[int, float]]:
        return [(record.step, record.nll_sum) for record in self.steps if record.step]


def run(made: RunSpec, backend: Backend, journal: MemoryJournal, patience: Patience | None = None) -> Run:
    hyper = made.hyperparameters
    patience = patience or Patience(hyper.early_stopping_patience, hyper.early_stopping_min_delta)
    return Run(made, backend, journal, patience, Gauge, time.monotonic, time.time)


def settings_of(fake: FakeTuft, *, call_deadline: float = 120.0, silence: float = 60.0) -> TuftSettings:
    return TuftSettings(fake.url, fake.api_key, call_deadline=call_deadline, create_deadline=120.0, silence=silence)
