"""Rungs with a real worker and supervisor on the fake TuFT: killed in the middle, no step and no decision is lost."""

from __future__ import annotations

import numpy as np
import pytest

from services.store.ids import new_id
from services.store.records import Hyperparameters, JobSpec, JobState, Rung, StartFrom, SweepAxis, SweepRecord
from tests.support.trainer_parts import conversations
from tests.support.trainer_stack import HOST, TrainerStack, kill, stack_over_fake_tuft, wait_for

RATES = (1e-3, 1e-1, 1e-2)
STEPS, RUNGS = 8, (Rung(2, 2), Rung(4, 1))


stack = pytest.fixture(stack_over_fake_tuft)


def sweep(stack: TrainerStack) -> list[str]:
    """Queued cells, one per rate, as CreateSweep makes them."""
    record = SweepRecord(new_id("sweep"), (SweepAxis("learning_rate", RATES),), rungs=RUNGS, cells=len(RATES))
    stack.store.sweeps.create(record)
    train, test = stack.dataset(conversations(12)), stack.dataset(conversations(5, seed=1))
    jobs = []
    for rate in RATES:
        hyper = Hyperparameters(
            learning_rate=rate, batch_size=4, max_steps=STEPS, eval_every=2, checkpoint_every=0, keep_checkpoints=9
        )
        steps = tuple(rung.step for rung in RUNGS)
        spec = JobSpec("test", stack.tuft.model_name, train, test, hyperparameters=hyper, sweep=record.id, rungs=steps)
        jobs.append(stack.store.jobs.create(spec).job.id)
        stack.store.sweeps.add_job(record.id, jobs[-1])
    for job in jobs:
        stack.store.tickets.enqueue(stack.store.jobs.queue(job, host=HOST, planned_steps=STEPS))
    return jobs


def ended(stack: TrainerStack, jobs: list[str]) -> bool:
    return all(stack.job(job).state in (JobState.SUCCEEDED, JobState.CANCELLED) for job in jobs)


def test_a_halved_sweep_survives_a_worker_killed_at_a_rung_and_a_killed_supervisor(stack: TrainerStack) -> None:
    jobs = sweep(stack)
    worker = stack.worker()
    wait_for(lambda: stack.job(jobs[0]).state in (JobState.PAUSING, JobState.PAUSED), "the first cell at its rung")
    if stack.job(jobs[0]).state is JobState.PAUSING:  # else it was faster than the look: then nothing is to be killed
        kill(stack.horse(worker))
    first = stack.supervisor()
    wait_for(lambda: (second := stack.job(jobs[1])).rung + second.passed_rung > 0, "the second cell at the rung")
    kill(first.pid)  # before or after it brought the first cell back: the next one finds it either way
    first.wait(60)
    stack.supervisor()
    wait_for(lambda: ended(stack, jobs), "the end of every cell", 120)
    found = [stack.job(job) for job in jobs]
    assert sorted((job.state.name, job.step) for job in found) == [("CANCELLED", 2), ("CANCELLED", 4), ("SUCCEEDED", 8)]
    standings = stack.store.halvings.standings(found[0].spec.sweep, 2)
    lowest = sorted(standings, key=lambda one: one.test_nll)
    assert [one.kept for one in lowest] == [True, True, False]
    (best,) = (job for job in found if job.state is JobState.SUCCEEDED)
    assert [step for step, _ in stack.series(best.id)] == list(range(1, STEPS + 1))
    for job in found:
        losses = stack.store.evaluations.get(job.id, job.step)
        nll = losses.nll_sum.sum(dtype=np.float64) / losses.weight_sum.sum(dtype=np.float64)
        assert nll == pytest.approx(stack.store.ledger.test_nll(job.id, job.step), rel=1e-6)
        assert losses.conversation.tolist() == [0, 0, 1, 2, 3, 3, 4]


def test_a_cell_that_waited_at_rungs_trained_what_one_trains_that_begins_as_it_did_and_never_waits(
    stack: TrainerStack,
) -> None:
    stack.lease_ttl = 15.0  # no worker is killed, and none shall lose its job to a busy machine
    jobs = sweep(stack)
    stack.worker()
    stack.supervisor()
    wait_for(lambda: ended(stack, jobs), "the end of every cell", 120)
    (best,) = (stack.job(job) for job in jobs if stack.job(job).state is JobState.SUCCEEDED)
    assert best.work.steps == STEPS
    fresh = next(one.id for one in stack.store.ledger.checkpoints(best.id) if one.step == 0)
    alone = stack.submit(best.spec.hyperparameters, start_from=StartFrom(best.id, fresh))
    stack.wait(alone, JobState.SUCCEEDED)
    assert stack.series(alone) == stack.series(best.id)
