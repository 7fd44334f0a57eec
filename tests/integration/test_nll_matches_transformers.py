"""The real TuFT: what the ledger says is what transformers and PEFT compute from the same tokens and weights."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from services.store.blobs.objects import Objects
from services.store.records import CheckpointRecord, Hyperparameters, JobState, StartFrom, StepRecord
from services.trainer.batches.rows import Row
from tests.support.trainer_parts import batches, conversations
from tests.support.trainer_stack import REPOSITORY, TrainerStack, kill, stack_over_real_tuft
from turnloom.embedded.tuft_server import TuftServer

pytestmark = pytest.mark.tuft

HYPER = Hyperparameters(
    max_steps=6,
    batch_size=4,
    learning_rate=5e-3,
    lora_rank=8,
    eval_every=3,
    checkpoint_every=3,
    keep_checkpoints=9,
    max_tokens_per_call=64,  # several calls a step, padded differently from the reference
)
TRAIN = conversations(12, vocabulary=500)
TEST = conversations(5, seed=1, vocabulary=500)


@dataclass
class Reference:
    """transformers and PEFT on the model that TuFT trains."""

    python: Path
    model: Path

    def nll(self, *cases: tuple[Sequence[Row], Path | None]) -> list[float]:
        """Nats of each case: rows and an adapter; sum over all rows."""
        order = [
            {
                "adapter": str(adapter) if adapter else None,
                "rows": [{"tokens": one.token_ids.tolist(), "weights": one.target_weights.tolist()} for one in rows],
            }
            for rows, adapter in cases
        ]
        command = [str(self.python), str(REPOSITORY / "tests" / "support" / "reference_nll.py"), str(self.model)]
        done = subprocess.run(
            command, input=json.dumps(order), capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return [math.fsum(found) for found in json.loads(done.stdout)]


stack = pytest.fixture(stack_over_real_tuft)


def adapter_of(stack: TrainerStack, checkpoint: CheckpointRecord, folder: Path) -> Path:
    Objects(str(stack.folder / "store")).get_folder(checkpoint.uri, folder)
    return folder / "adapter"


def step_of(stack: TrainerStack, job_id: str, step: int) -> StepRecord:
    return stack.store.ledger.steps(job_id, step, 1)[0]


def test_the_ledger_says_what_transformers_computes(
    stack: TrainerStack,
    tuft_python: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
) -> None:
    reference = Reference(tuft_python, tiny_model_dir)
    job_id = stack.submit(HYPER, train=TRAIN, test=TEST)
    stack.worker()
    job = stack.wait(job_id, JobState.SUCCEEDED, deadline=240)
    saved = {one.step: one for one in stack.store.ledger.checkpoints(job_id)}
    assert set(saved) == {0, 3, 6}
    made = batches(TRAIN, HYPER.batch_size)
    middle = adapter_of(stack, saved[3], tmp_path / "middle")
    final = tmp_path / "final"
    Objects(str(stack.folder / "store")).get_folder(job.adapter_uri, final)
    first_rows, fourth_rows = made.batch(1).rows, made.batch(4).rows
    untrained, fourth, untrained_fourth, middle_test, final_test = reference.nll(
        (first_rows, None), (fourth_rows, middle), (fourth_rows, None), (TEST, middle), (TEST, final)
    )
    # A fresh adapter changes nothing: this is the base model.
    assert step_of(stack, job_id, 1).nll_sum == pytest.approx(untrained, rel=1e-4)
    assert step_of(stack, job_id, 4).nll_sum == pytest.approx(fourth, rel=1e-4)
    assert step_of(stack, job_id, 3).test_nll_sum == pytest.approx(middle_test, rel=1e-4)
    assert step_of(stack, job_id, 4).nll_sum != pytest.approx(untrained_fourth, rel=1e-2)  # it has learned
    assert step_of(stack, job_id, 6).test_nll_sum == pytest.approx(final_test, rel=1e-4)


def test_two_runs_from_one_checkpoint_give_the_same_numbers_also_after_its_release(stack: TrainerStack) -> None:
    first = stack.submit(HYPER, train=TRAIN, test=TEST)
    worker = stack.worker()
    stack.wait(first, JobState.SUCCEEDED, deadline=240)
    middle = next(one for one in stack.store.ledger.checkpoints(first) if one.step == 3)
    start = StartFrom(first, middle.id)
    one, two = (stack.submit(HYPER, train=TRAIN, test=TEST, start_from=start) for _ in range(2))
    stack.wait(one, JobState.SUCCEEDED, deadline=240)
    stack.wait(two, JobState.SUCCEEDED, deadline=240)
    assert stack.series(one) == stack.series(two)
    initial = stack.store.ledger.initial(one)
    assert initial is not None
    assert initial.test_nll_sum == step_of(stack, first, 3).test_nll_sum
    assert worker.poll() is None


@pytest.mark.slow
def test_killed_horse_worker_and_server_leave_no_trace_in_the_numbers(
    stack: TrainerStack,
    real_tuft: TuftServer,
) -> None:
    stack.supervisor()
    worker = stack.worker()
    seed = stack.submit(replace(HYPER, max_steps=1), train=TRAIN, test=TEST)
    stack.wait(seed, JobState.SUCCEEDED, deadline=240)
    start = StartFrom(seed, stack.store.ledger.checkpoints(seed)[0].id)
    hyper = replace(HYPER, max_steps=60, eval_every=20, checkpoint_every=10)
    whole = stack.submit(hyper, train=TRAIN, test=TEST, start_from=start)
    stack.wait(whole, JobState.SUCCEEDED, deadline=240)
    expected = [nll for _, nll in stack.series(whole)]
    for victim in ("horse", "worker", "server"):
        job_id = stack.submit(hyper, train=TRAIN, test=TEST, start_from=start)
        stack.wait_step(job_id, 23, deadline=240)
        if victim == "horse":
            kill(stack.horse(worker))
        elif victim == "worker":
            kill(worker.pid)
            worker.wait(10)
            worker = stack.worker()
        else:
            real_tuft.restart(120.0)
        job = stack.wait(job_id, JobState.SUCCEEDED, deadline=240)
        assert job.attempt > 1
        assert [step for step, _ in stack.series(job_id)] == list(range(1, 61))
        assert [nll for _, nll in stack.series(job_id)] == pytest.approx(expected, rel=1e-6)
