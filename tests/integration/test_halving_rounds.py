"""Cells at rungs on a real Redis: they wait, are compared once, go on or end, whatever dies in the middle."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import cast

import pytest

from services.store import keys
from services.store.codec import encode
from services.store.ids import new_id
from services.store.jobs import Jobs
from services.store.ledger import Outcome
from services.store.records import (
    CheckpointRecord,
    Control,
    ErrorRecord,
    HostRecord,
    Hyperparameters,
    JobRecord,
    JobSpec,
    JobState,
    Rung,
    ServedModelRecord,
    StepRecord,
    SweepAxis,
    SweepRecord,
)
from services.store.store import Store, open_store
from services.trainer.supervision.halving import settle_rungs
from services.trainer.supervision.supervisor import Supervisor, SupervisorSettings

RUNGS = (Rung(2, 2), Rung(4, 1))
STEPS = 6


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = open_store(redis_url, lease_ttl=60)
    store.redis.hset("tl:api:dataset:ds", "state", "ready")
    yield store
    store.close()


def sweep(store: Store, cells: int = 4) -> list[str]:
    """Queued cells of a sweep with RUNGS."""
    record = SweepRecord(
        new_id("sweep"), (SweepAxis("lora_rank", tuple(range(1, cells + 1))),), rungs=RUNGS, cells=cells
    )
    made = store.sweeps.create(record).sweep
    jobs = []
    for rank in range(1, cells + 1):
        hyper = Hyperparameters(lora_rank=rank, max_steps=STEPS)
        spec = JobSpec(
            "m", "tuft/m", "ds", hyperparameters=hyper, sweep=made.id, rungs=tuple(one.step for one in RUNGS)
        )
        jobs.append(store.jobs.create(spec).job.id)
        store.sweeps.add_job(made.id, jobs[-1])
    for job in jobs:
        store.tickets.enqueue(store.jobs.queue(job, host="h1", planned_steps=STEPS))
    return jobs


def commit(store: Store, job: str, attempt: int, number: int, nll: float) -> Control:
    """Every second step is evaluated."""
    record = StepRecord(number, attempt, tokens=5, nll_sum=nll, weight_sum=1.0)
    if number % 2 == 0:
        record = replace(record, test_nll_sum=10 * nll, test_weight_sum=10.0, test_target_bytes=10)
    answer = store.ledger.commit_step(job, record)
    assert answer.outcome is Outcome.OK
    return answer.control


def train(store: Store, job: str, nll: float) -> JobRecord:
    """What a worker does: from the last checkpoint until it is asked to leave, or the end."""
    attempt = store.jobs.get(job).attempt + 1
    claim = store.jobs.claim(job, attempt, f"w-{job}-{attempt}")
    assert claim is not None
    number, control = claim.checkpoint.step if claim.checkpoint else 0, Control.NONE
    while number < STEPS and control is Control.NONE:
        number += 1
        control = commit(store, job, attempt, number, nll)
    save(store, job, attempt, number)
    return store.jobs.finish(job, attempt, JobState.PAUSED if control is Control.PAUSE else JobState.SUCCEEDED)


def save(store: Store, job: str, attempt: int, number: int) -> None:
    name = f"{job}-a{attempt}-s{number}"
    store.ledger.commit_checkpoint(job, CheckpointRecord(name, f"tinker://{name}", number, attempt))


class Stale:
    """Jobs as they were read once."""

    def __init__(self, jobs: Jobs, read: Sequence[JobRecord]) -> None:
        self._jobs = jobs
        self._read = read

    def in_states(self, states: Collection[JobState]) -> list[JobRecord]:
        return [job for job in self._read if job.state in states]

    def get_many(self, names: Collection[str]) -> list[JobRecord]:
        return [job for job in self._read if job.id in names]

    def __getattr__(self, name: str) -> object:
        return getattr(self._jobs, name)


def settle(store: Store) -> None:
    settle_rungs(store)


def states(store: Store, jobs: list[str]) -> list[str]:
    return [store.jobs.get(job).state.name for job in jobs]


def types(store: Store, job: str) -> list[str]:
    return [event.type for event in store.events.list(job).items]


def test_cells_wait_at_each_rung_and_the_best_go_on_without_losing_a_step(store: Store) -> None:
    jobs = sweep(store)
    nlls = dict(zip(jobs, (3.0, 1.0, 2.0, 4.0), strict=True))
    for job in jobs:
        assert "CANCELLED" not in states(store, jobs), "nothing is compared before the last cell is there"
        waiting = train(store, job, nlls[job])
        assert (waiting.state, waiting.rung, waiting.step) == (JobState.PAUSED, 2, 2)
        settle(store)
    assert states(store, jobs) == ["CANCELLED", "QUEUED", "QUEUED", "CANCELLED"]
    stopped = store.jobs.get(jobs[0])
    assert stopped.standing is not None
    assert stopped.standing.reason == (
        "Stopped by successive halving at step 2: rank 3 of 4, test NLL 3.0000; the 2 that go on have 2.0000 or less."
    )
    assert (stopped.step, stopped.last_checkpoint) == (2, f"{jobs[0]}-a1-s2"), "its last checkpoint stays"
    assert "STOPPED_BY_HALVING" in types(store, jobs[0])
    assert store.tickets.waiting("h1")[-2:] == [f"{jobs[1]}-a2", f"{jobs[2]}-a2"], "behind whoever came meanwhile"
    for job in jobs[1:3]:
        assert train(store, job, nlls[job]).rung == 4
    settle(store)
    assert states(store, jobs) == ["CANCELLED", "QUEUED", "CANCELLED", "CANCELLED"]
    best = train(store, jobs[1], nlls[jobs[1]])
    assert (best.state, best.step, best.passed_rung, best.rung) == (JobState.SUCCEEDED, STEPS, 4, 0)
    assert [record.step for record in store.ledger.steps(jobs[1])] == [1, 2, 3, 4, 5, 6]
    assert best.work.steps == STEPS, "no step was trained twice"
    assert [one.rank for one in store.halvings.standings(best.spec.sweep, 2)] == [3, 1, 2, 4]


def test_comparing_again_changes_nothing_and_a_decision_on_stale_standings_is_dropped(store: Store) -> None:
    jobs = sweep(store, 3)
    for job, nll in zip(jobs, (1.0, 2.0, 3.0), strict=True):
        train(store, job, nll)
    stale = replace(store, jobs=cast(Jobs, Stale(store.jobs, store.jobs.active())))
    settle_rungs(stale)
    after = states(store, jobs)
    assert after == ["QUEUED", "QUEUED", "CANCELLED"]
    standings = store.halvings.standings(store.jobs.get(jobs[0]).spec.sweep, 2)
    settle_rungs(stale)  # a second supervisor that read before the first one wrote
    settle(store)
    assert states(store, jobs) == after
    assert store.halvings.standings(store.jobs.get(jobs[0]).spec.sweep, 2) == standings
    assert [types(store, job).count("RUNG_PASSED") for job in jobs] == [1, 1, 0]


def test_a_supervisor_that_dies_between_decision_and_ticket_leaves_cells_that_the_next_one_enqueues(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = sweep(store, 3)
    for job, nll in zip(jobs, (1.0, 2.0, 3.0), strict=True):
        train(store, job, nll)

    def die(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(type(store.tickets), "enqueue", die)
        with pytest.raises(SystemExit):
            settle(store)
    assert states(store, jobs) == ["QUEUED", "QUEUED", "CANCELLED"], "queued: the supervisor renews lost tickets"


def test_cells_that_failed_were_cancelled_or_paused_by_their_owner_hold_nobody_up(store: Store) -> None:
    jobs = sweep(store, 5)
    train(store, jobs[0], 2.0)
    for job in jobs[1:4]:
        store.jobs.claim(job, 1, "w")
        commit(store, job, 1, 1, 9.0)
    store.jobs.finish(jobs[1], 1, JobState.FAILED)
    store.jobs.cancel(jobs[2])
    store.jobs.pause(jobs[3])
    settle(store)
    assert states(store, jobs)[0] == "PAUSED", "the last cell is still queued"
    train(store, jobs[4], 1.0)
    settle(store)
    assert states(store, [jobs[0], jobs[4]]) == ["QUEUED", "QUEUED"]
    save(store, jobs[3], 1, 1)
    store.jobs.finish(jobs[3], 1, JobState.PAUSED)
    store.jobs.resume(jobs[3])
    late = train(store, jobs[3], 1.5)
    assert (late.state, late.rung) == (JobState.PAUSED, 2)
    settle(store)
    late = store.jobs.get(jobs[3])
    assert (late.state, late.standing.rank, late.standing.compared) == (JobState.QUEUED, 2, 3)


def test_a_worker_that_dies_at_a_rung_leaves_a_cell_that_is_compared_and_trains_the_rung_again_without_a_stop(
    store: Store,
) -> None:
    jobs = sweep(store, 2)
    store.jobs.claim(jobs[0], 1, "w")
    commit(store, jobs[0], 1, 1, 1.0)
    assert commit(store, jobs[0], 1, 2, 1.0) is Control.PAUSE
    assert commit(store, jobs[0], 1, 2, 1.0) is Control.PAUSE, "the same commit again is answered the same"
    store.redis.delete(keys.lease(jobs[0]))
    assert store.jobs.expire(jobs[0])
    assert store.jobs.get(jobs[0]).state is JobState.PAUSED
    train(store, jobs[1], 2.0)
    settle(store)
    again = train(store, jobs[0], 1.0)
    assert (again.state, again.rung) == (JobState.PAUSED, 4), "step 2 was trained again and is not waited at again"
    assert again.work.steps == 6, "two steps without a checkpoint were lost with the worker"


def test_cells_that_workers_of_an_earlier_version_left_at_a_rung_are_compared_too(store: Store) -> None:
    jobs = sweep(store)
    for nll, job in enumerate(jobs, start=1):
        train(store, job, float(nll))
    store.redis.delete(keys.RUNGS)  # which they did not write
    settle_rungs(store)
    assert states(store, jobs) == ["PAUSED"] * 4
    Supervisor(store, SupervisorSettings("")).round()
    assert states(store, jobs) == ["QUEUED", "QUEUED", "CANCELLED", "CANCELLED"]


@pytest.mark.parametrize("stopped", [False, True])
def test_whoever_resumes_a_waiting_or_stopped_cell_takes_it_out_of_the_halving(store: Store, stopped: bool) -> None:
    jobs = sweep(store, 3)
    train(store, jobs[0], 9.0)
    if stopped:
        for job in jobs[1:]:
            train(store, job, 1.0)
        settle(store)
        assert states(store, jobs)[0] == "CANCELLED"
    store.jobs.resume(jobs[0])
    resumed = store.jobs.get(jobs[0])
    assert (resumed.state, resumed.rungs, resumed.rung, resumed.standing) == (JobState.QUEUED, (), 0, None)
    settle(store)
    ended = train(store, jobs[0], 9.0)
    assert (ended.state, ended.step) == (JobState.SUCCEEDED, STEPS)


def test_a_rung_whose_evaluation_was_left_out_is_passed_by_and_the_next_one_counts(store: Store) -> None:
    jobs = sweep(store, 2)
    store.jobs.claim(jobs[0], 1, "w")
    for number in (1, 2, 3):
        record = StepRecord(number, 1, nll_sum=1.0, weight_sum=1.0)
        assert store.ledger.commit_step(jobs[0], record).control is Control.NONE
    train(store, jobs[1], 2.0)
    settle(store)
    assert states(store, jobs) == ["RUNNING", "QUEUED"], "nobody waits for a cell that is past the rung"
    assert commit(store, jobs[0], 1, 4, 1.0) is Control.PAUSE


def test_an_evaluation_of_an_earlier_attempt_brings_no_cell_to_a_rung(store: Store) -> None:
    jobs = sweep(store, 2)
    store.jobs.claim(jobs[0], 1, "w")
    commit(store, jobs[0], 1, 1, 9.0)
    store.jobs.pause(jobs[0])  # so the evaluation at the rung stops it for its owner, not for the others
    commit(store, jobs[0], 1, 2, 9.0)
    store.jobs.finish(jobs[0], 1, JobState.PAUSED)  # without a checkpoint: both steps are trained again
    store.jobs.resume(jobs[0])
    store.jobs.claim(jobs[0], 2, "w2")
    for number in (1, 2):  # asked to leave, it would have left its evaluation for later
        record = StepRecord(number, 2, nll_sum=1.0, weight_sum=1.0)
        assert store.ledger.commit_step(jobs[0], record).control is Control.NONE
    assert store.jobs.get(jobs[0]).rung == 0
    late = StepRecord(3, 2, nll_sum=1.0, weight_sum=1.0)
    assert store.ledger.commit_step(jobs[0], late).control is Control.NONE


def test_a_cell_that_paused_with_an_error_and_goes_on_shows_it_no_more(store: Store) -> None:
    jobs = sweep(store, 2)
    store.jobs.claim(jobs[0], 1, "w")
    for number in (1, 2):
        commit(store, jobs[0], 1, number, 1.0)
    full = ErrorRecord("STORE_FAILED", "The store is full.")
    assert store.jobs.finish(jobs[0], 1, JobState.FAILED, full).state is JobState.PAUSED
    assert store.jobs.get(jobs[0]).error == full
    train(store, jobs[1], 2.0)
    settle(store)
    kept = store.jobs.get(jobs[0])
    assert (kept.state, kept.error) == (JobState.QUEUED, None)


@pytest.mark.parametrize("there", [False, True])
def test_a_cell_that_is_paused_at_a_rung_stays_until_it_is_resumed_and_is_then_compared(
    store: Store, there: bool
) -> None:
    jobs = sweep(store, 3)
    store.jobs.claim(jobs[0], 1, "w")
    commit(store, jobs[0], 1, 1, 1.0)
    assert commit(store, jobs[0], 1, 2, 1.0) is Control.PAUSE
    save(store, jobs[0], 1, 2)
    if not there:
        assert store.jobs.pause(jobs[0]).state is JobState.PAUSING
    store.jobs.finish(jobs[0], 1, JobState.PAUSED)
    if there:
        assert store.jobs.pause(jobs[0]).state is JobState.PAUSED
    for job, nll in zip(jobs[1:], (2.0, 3.0), strict=True):
        train(store, job, nll)
    settle(store)
    assert states(store, jobs) == ["PAUSED", "QUEUED", "QUEUED"], "the others don't wait for it, nor it for them"
    assert store.redis.zcard(keys.RUNGS) == 0
    store.jobs.resume(jobs[0])
    assert train(store, jobs[0], 1.0).rung == 2
    settle(store)
    standing = store.jobs.get(jobs[0]).standing
    assert standing is not None
    assert (standing.rank, standing.compared, standing.kept) == (1, 3, True)


def keep_in_store(store: Store, job: str) -> None:
    """The last checkpoint as one that any host can begin from."""
    name = store.jobs.get(job).last_checkpoint
    store.redis.hset(keys.checkpoints(job), name, encode(replace(store.ledger.checkpoint(job), stored=True)))


def test_a_cell_on_a_lost_host_holds_up_no_cell_that_could_go_on_and_is_compared_when_it_comes(store: Store) -> None:
    jobs = sweep(store, 3)
    store.jobs.host_lost(jobs[0], "h1", "Host h1 has been silent for 600 s; the job is bound to it.")
    for job, nll in zip(jobs[1:], (2.0, 1.0), strict=True):
        train(store, job, nll)
        keep_in_store(store, job)
    settle(store)
    assert states(store, jobs) == ["QUEUED", "PAUSED", "PAUSED"], "no host is live, so nobody could go on"
    store.hosts.put(HostRecord("h1", models=(ServedModelRecord("tuft/m"),), backend_up=True))
    settle(store)
    assert states(store, jobs) == ["QUEUED", "PAUSED", "PAUSED"], "its host is back, and so will be the cell"
    store.redis.delete(keys.host("h1"))
    store.hosts.put(HostRecord("h2", models=(ServedModelRecord("tuft/m"),), backend_up=True))
    settle(store)
    assert [store.jobs.get(job).host for job in jobs] == ["h1", "", ""], "they wait in the pool"
    train(store, jobs[0], 3.0)
    settle(store)
    assert states(store, jobs) == ["CANCELLED", "QUEUED", "QUEUED"], "two of three go on, and it is the third"


def test_a_cell_whose_checkpoint_is_stored_goes_on_wherever_a_worker_is_free(store: Store) -> None:
    jobs = sweep(store, 1)
    train(store, jobs[0], 1.0)
    store.hosts.put(HostRecord("h2", models=(ServedModelRecord("tuft/m"),), backend_up=True))
    keep_in_store(store, jobs[0])
    settle(store)
    assert store.jobs.get(jobs[0]).host == ""
    assert [one.job for one in store.pool.waiting()] == [jobs[0]]
