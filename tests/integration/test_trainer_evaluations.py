"""Evaluations that a run has to leave, or that ended it: the next attempt takes up what is missing and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from services.store.records import Control, Hyperparameters, StepRecord
from services.trainer import loop
from services.trainer.evaluation import Patience
from services.trainer.loop import RunSpec
from services.trainer.tuft import TuftBackend, connect
from tests.fakes.fake_tuft import FakeTuft
from tests.support.trainer_parts import SMALL, MemoryJournal, conversations, plan, run, settings_of

HYPER = Hyperparameters(max_steps=4, batch_size=4, learning_rate=1e-2, lora_rank=4, eval_every=2, checkpoint_every=0)
MADE = plan(HYPER, test=conversations(5, seed=1))


@pytest.fixture
def backend(fake_tuft: FakeTuft) -> Iterator[TuftBackend]:
    made = connect(settings_of(fake_tuft), SMALL)
    yield made
    made.close()


def whole(backend: TuftBackend) -> MemoryJournal:
    journal = MemoryJournal()
    assert run(MADE, backend, journal).train(0, save_first=True, untested=StepRecord(0, 1)) is Control.NONE
    return journal


def left_in_the_evaluation_of(
    step: int, backend: TuftBackend, start: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> MemoryJournal:
    """A run from the checkpoint of step 0 that is asked to pause once `step` is evaluated, and has no time for it."""
    evaluating = False

    def is_evaluated(made: RunSpec, number: int) -> bool:
        nonlocal evaluating
        evaluating = evaluating or number == step
        return asked_for(made, number)

    asked_for = RunSpec.is_evaluated
    backend.load(start.checkpoints[0].path, optimizer=True).result()
    journal = MemoryJournal(asks=lambda _seen: Control.PAUSE if evaluating else Control.NONE)
    with monkeypatch.context() as patched:
        patched.setattr(RunSpec, "is_evaluated", is_evaluated)
        patched.setattr(loop, "EVALUATION_GRACE", 0.0)
        made = replace(MADE, hyperparameters=replace(HYPER, pipeline_depth=1))
        assert run(made, backend, journal).train(0, save_first=False, untested=None) is Control.PAUSE
    assert [record.step for record in journal.steps if record.test_nll_sum is not None] == [
        number for number in (2, 4) if number < step
    ]
    assert (journal.steps[-1].step, journal.checkpoints[-1].step) == (step, step)
    assert journal.events[-1] == (
        "EVALUATION_SKIPPED",
        f"Step {step}: left before its evaluation was done; a resumed job begins with it.",
    )
    return journal


@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_run_begins_with_the_evaluation_that_the_one_before_left(
    backend: TuftBackend, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    undisturbed = whole(backend)
    left = left_in_the_evaluation_of(step, backend, undisturbed, monkeypatch)
    again, saved = MemoryJournal(), left.checkpoints[-1]
    backend.load(saved.path, optimizer=True).result()
    made = replace(MADE, attempt=2)
    untested = replace(left.steps[-1], attempt=2)
    assert run(made, backend, again).train(step, save_first=False, untested=untested) is Control.NONE
    series = [*left.steps[:-1], *again.steps]
    expected = undisturbed.steps[1:]
    assert [(one.step, one.nll_sum, one.test_nll_sum) for one in series] == [
        (one.step, one.nll_sum, one.test_nll_sum) for one in expected
    ]
    assert [one.step for one in again.checkpoints] == ([2, 4] if step == 2 else [4])
    first = again.steps[0]
    assert first.test_nll_sum is not None
    assert first.test_weight_sum is not None
    assert again.checkpoints[0].test_nll == first.test_nll_sum / first.test_weight_sum


def test_the_seconds_of_a_step_hold_no_evaluation_before_it(backend: TuftBackend) -> None:
    class Slow(MemoryJournal):
        def step(self, record: StepRecord) -> None:
            nonlocal seconds
            super().step(record)
            seconds += 100.0 if record.step == 0 else 0.0

    seconds, journal = 0.0, Slow()
    timed = run(MADE, backend, journal)
    timed.clock = lambda: seconds
    timed.train(0, save_first=True, untested=StepRecord(0, 1))
    assert journal.steps[1].phase_seconds == {"data": 0.0, "forward_backward": 0.0, "optim_step": 0.0}


def test_a_run_that_had_stopped_early_trains_no_further_when_it_comes_back(backend: TuftBackend) -> None:
    start = whole(backend)
    backend.load(start.checkpoints[0].path, optimizer=True).result()
    patience = Patience(1, 0.0)
    assert [patience.seen(nll) for nll in (1.0, 2.0)] == [False, True]  # as replayed from the ledger
    again = MemoryJournal()
    assert run(MADE, backend, again, patience).train(2, save_first=False, untested=None) is Control.NONE
    assert (again.steps, again.checkpoints, again.events) == ([], [], [])
