"""The ledger's rules on a real Redis: edges, claims, commits, duplicates, gaps, fencing, resume."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.store.codec import encode
from services.store.connection import connect
from services.store.errors import (
    CheckpointNotUsable,
    Fenced,
    IllegalEdge,
    InUse,
    NotFound,
    RequestMismatch,
    StepOutOfOrder,
)
from services.store.events import Events
from services.store.jobs import Jobs
from services.store.ledger import Ledger, Outcome
from services.store.records import (
    CheckpointRecord,
    Control,
    CutReport,
    ErrorRecord,
    EventRecord,
    Hyperparameters,
    JobRecord,
    JobSpec,
    JobState,
    MixPart,
    MixSums,
    StartFrom,
    StepRecord,
)
from services.store.store import Store, open_store

SPEC = JobSpec(
    "tiny", "turnloom/tiny", "ds-train", "ds-test", Hyperparameters(learning_rate=0.1 + 0.2), {"run": "é"}, "anna"
)


@pytest.fixture
def store(redis_url: str) -> Store:
    store = open_store(redis_url)
    for name in ("ds-train", "ds-test"):
        store.redis.hset(f"tl:api:dataset:{name}", "state", "ready")
    return store


def queued(store: Store, spec: JobSpec = SPEC) -> JobRecord:
    job = store.jobs.create(spec).job
    return store.jobs.queue(job.id, host="h1", planned_steps=10)


def running(store: Store, spec: JobSpec = SPEC) -> JobRecord:
    claim = store.jobs.claim(queued(store, spec).id, 1, "w1")
    assert claim is not None
    return claim.job


def step(number: int, attempt: int = 1, nll: float | None = None, test: float | None = None) -> StepRecord:
    return StepRecord(
        step=number, attempt=attempt, epoch=1, conversations=2, rows=3, tokens=100, loss_tokens=40, target_bytes=160,
        nll_sum=0.1 * number if nll is None else nll, weight_sum=40.0, objective=1.0, learning_rate=1e-4 / 3,
        phase_seconds={"data": 0.001, "forward_backward": 0.3}, time=1.5,
        test_nll_sum=test, test_weight_sum=None if test is None else 10.0,
        test_target_bytes=None if test is None else 25,
    )  # fmt: skip


def checkpoint(job: JobRecord, number: int, attempt: int = 1, test: float | None = None) -> CheckpointRecord:
    name = f"{job.id}-a{attempt}-s{number}"
    return CheckpointRecord(name, f"tinker://{name}", number, attempt, probe_nll=1 / 3, test_nll=test)


def train(store: Store, job: JobRecord, first: int, last: int, attempt: int = 1) -> None:
    for number in range(first, last + 1):
        assert store.ledger.commit_step(job.id, step(number, attempt)).outcome is Outcome.OK


def save(store: Store, job: JobRecord, number: int, attempt: int = 1, test: float | None = None) -> str:
    record = checkpoint(job, number, attempt, test)
    assert store.ledger.commit_checkpoint(job.id, record).outcome is Outcome.OK
    return record.id


def series(store: Store, job: JobRecord) -> list[tuple[int, int]]:
    return [(record.step, record.attempt) for record in store.ledger.steps(job.id)]


def events(store: Store, job: JobRecord) -> list[EventRecord]:
    return list(store.events.list(job.id).items)


def test_a_job_keeps_what_was_asked_for_exactly(store: Store) -> None:
    job = store.jobs.create(SPEC, planned_steps=7).job
    assert job.spec == SPEC
    assert (job.state, job.attempt, job.planned_steps) == (JobState.VALIDATING, 0, 7)
    job = store.jobs.queue(job.id, host="h1", planned_steps=9, cut=CutReport(1, 2, 3))
    assert (job.state, job.host, job.planned_steps, job.cut) == (JobState.QUEUED, "h1", 9, CutReport(1, 2, 3))


def test_a_request_id_makes_one_job_and_refuses_other_content(store: Store) -> None:
    first = store.jobs.create(SPEC, request_id="r1", content_hash="x")
    again = store.jobs.create(SPEC, request_id="r1", content_hash="x")
    assert (first.deduplicated, again.deduplicated) == (False, True)
    assert again.job.id == first.job.id
    with pytest.raises(RequestMismatch, match=f"this request_id made {first.job.id} from other content"):
        store.jobs.create(SPEC, request_id="r1", content_hash="y")
    other = store.jobs.create(replace(SPEC, owner="ben"), request_id="r1", content_hash="y")
    assert not other.deduplicated
    assert store.jobs.find_request("anna", "r1", "x") == first.job
    assert store.jobs.find_request("anna", "r2", "x") is None
    with pytest.raises(RequestMismatch):
        store.jobs.find_request("anna", "r1", "z")


def test_a_job_needs_datasets_that_are_there_and_ready(store: Store) -> None:
    with pytest.raises(NotFound, match="there is no dataset ds-none"):
        store.jobs.create(replace(SPEC, test_dataset="ds-none"))
    store.redis.hset("tl:api:dataset:ds-new", "state", "creating")
    with pytest.raises(IllegalEdge, match="dataset ds-new is CREATING, a job needs it READY"):
        store.jobs.create(replace(SPEC, training_dataset="ds-new"))
    with pytest.raises(NotFound, match="there is no job job-x"):
        store.jobs.create(replace(SPEC, start_from=StartFrom("job-x")))
    assert store.redis.zcard("tl:run:jobs") == 0


def test_every_illegal_edge_is_refused_with_a_sentence(store: Store) -> None:
    job = store.jobs.create(SPEC).job
    with pytest.raises(IllegalEdge, match=f"job {job.id} is VALIDATING and can't become CANCELLED"):
        store.jobs.cancel(job.id)
    with pytest.raises(IllegalEdge, match="VALIDATING and can't become PAUSING"):
        store.jobs.pause(job.id)
    store.jobs.queue(job.id, host="h", planned_steps=1)
    with pytest.raises(IllegalEdge, match="is QUEUED, only a VALIDATING job is queued so"):
        store.jobs.queue(job.id, host="h", planned_steps=1)
    with pytest.raises(IllegalEdge, match="QUEUED and can't become QUEUED"):
        store.jobs.resume(job.id)
    with pytest.raises(IllegalEdge, match="is QUEUED, only a VALIDATING job is rejected"):
        store.jobs.reject(job.id, ErrorRecord("X", "x"))
    store.jobs.claim(job.id, 1, "w")
    with pytest.raises(IllegalEdge, match="RUNNING and can't become PAUSED"):
        store.jobs.finish(job.id, 1, JobState.PAUSED)
    store.jobs.finish(job.id, 1, JobState.SUCCEEDED)
    with pytest.raises(
        IllegalEdge, match="is SUCCEEDED, only a PAUSED, FAILED or CANCELLED job is resumed; create a job that"
    ):
        store.jobs.resume(job.id)
    with pytest.raises(NotFound, match="there is no job job-0"):
        store.jobs.cancel("job-0")


def test_only_the_next_attempt_of_a_queued_job_is_claimed_and_a_dropped_ticket_leaves_an_event(store: Store) -> None:
    job = queued(store)
    assert store.jobs.claim(job.id, 2, "w1") is None
    claim = store.jobs.claim(job.id, 1, "w1")
    assert claim is not None
    assert (claim.job.state, claim.job.attempt, claim.job.worker, claim.checkpoint) == (JobState.RUNNING, 1, "w1", None)
    assert store.jobs.claim(job.id, 1, "w2") is None
    assert store.jobs.claim(job.id, 1, "w1") == claim, "a claim whose answer was lost"
    assert [event.message for event in events(store, job) if event.type == "TICKET_DROPPED"] == [
        "A ticket for attempt 2 was dropped: the job is QUEUED at attempt 0.",
        "A ticket for attempt 1 was dropped: the job is RUNNING at attempt 1.",
    ]
    assert store.jobs.claim("job-gone", 1, "w1") is None
    assert not store.redis.exists("tl:run:stream:job-gone")


def test_floats_pass_through_the_ledger_exactly(store: Store) -> None:
    job = running(store)
    records = [step(n, nll=0.1 + n / 7, test=1e-17 + n / 3 if n % 2 else None) for n in range(1, 8)]
    for record in records:
        store.ledger.commit_step(job.id, record)
    assert store.ledger.steps(job.id) == records
    total = 0.0
    for record in records:
        total += record.nll_sum
    found = store.jobs.get(job.id)
    assert found.effective.nll == total == found.work.nll
    assert found.last_train_nll == records[-1].nll_sum / 40.0
    assert found.learning_rate == 1e-4 / 3
    assert found.test_nll == (1e-17 + 7 / 3) / 10.0
    assert found.best_test_nll == (1e-17 + 1 / 3) / 10.0
    assert (found.test_step, found.best_test_step, found.step) == (7, 1, 7)


def test_a_step_sent_twice_counts_once_and_a_gap_names_the_last_step(store: Store) -> None:
    job = running(store)
    train(store, job, 1, 3)
    before = store.jobs.get(job.id)
    again = store.ledger.commit_step(job.id, step(2))
    assert (again.outcome, again.last, again.checkpoint_step) == (Outcome.OK, 3, -1)
    gap = store.ledger.commit_step(job.id, step(5))
    assert (gap.outcome, gap.last) == (Outcome.GAP, 3)
    assert replace(store.jobs.get(job.id)) == before
    assert store.ledger.commit_checkpoint(job.id, checkpoint(job, 4)).outcome is Outcome.GAP
    assert series(store, job) == [(1, 1), (2, 1), (3, 1)]


def test_the_evaluation_before_step_1_is_step_0_and_no_step(store: Store) -> None:
    job = running(store)
    assert store.ledger.initial(job.id) is None
    start = StepRecord(0, 1, test_nll_sum=50.0, test_weight_sum=10.0, test_target_bytes=25)
    for _ in range(2):
        assert store.ledger.commit_step(job.id, start).outcome is Outcome.OK
    train(store, job, 1, 2)
    assert store.ledger.initial(job.id) == start
    assert series(store, job) == [(1, 1), (2, 1)]
    found = store.jobs.get(job.id)
    assert (found.test_nll, found.work.test_weight, found.effective.test_weight, found.work.steps) == (
        5.0,
        10.0,
        10.0,
        2,
    )
    assert found.effective.steps == 2


def test_a_resumed_attempt_supersedes_later_steps_but_their_work_stays_counted(store: Store) -> None:
    job = running(store)
    save(store, job, 0)
    train(store, job, 1, 2)
    store.ledger.commit_step(job.id, step(3, test=30.0))
    kept = save(store, job, 3, test=3.0)
    at_three = store.jobs.get(job.id)
    train(store, job, 4, 5)
    store.ledger.commit_step(job.id, step(6, test=10.0))
    store.jobs.release(job.id, 1, "server_restarted", "TuFT restarted.")
    claim = store.jobs.claim(job.id, 2, "w2")
    assert claim is not None
    assert claim.checkpoint == checkpoint(job, 3, test=3.0)
    assert (claim.job.step, claim.job.start_step, claim.job.last_checkpoint) == (3, 3, kept)
    assert claim.job.effective == at_three.effective
    assert (claim.job.test_nll, claim.job.best_test_nll, claim.job.epoch) == (3.0, 3.0, 1)
    assert claim.job.last_train_nll == at_three.last_train_nll
    assert claim.job.work.steps == 6
    train(store, job, 4, 4, attempt=2)
    assert series(store, job) == [(1, 1), (2, 1), (3, 1), (4, 2)]
    assert [record.step for record in store.ledger.all_steps(job.id)] == [1, 2, 3, 4, 5, 6, 4]
    assert store.jobs.get(job.id).work.steps == 7
    assert store.jobs.get(job.id).effective.steps == 4


def test_two_attempts_alive_at_once_and_only_the_new_one_commits(store: Store) -> None:
    job = running(store)
    save(store, job, 0)
    train(store, job, 1, 2)
    store.jobs.release(job.id, 1, "worker_lost", "gone")
    assert store.jobs.claim(job.id, 2, "w2") is not None
    before = store.jobs.get(job.id)
    assert store.ledger.commit_step(job.id, step(3, attempt=1)).outcome is Outcome.FENCED
    assert store.ledger.commit_step(job.id, step(1, attempt=1)).outcome is Outcome.FENCED
    assert store.ledger.commit_checkpoint(job.id, checkpoint(job, 0)).outcome is Outcome.FENCED
    for call in (
        lambda: store.jobs.renew(job.id, 1),
        lambda: store.jobs.finish(job.id, 1, JobState.SUCCEEDED),
        lambda: store.jobs.release(job.id, 1, "x", "y"),
        lambda: store.jobs.preempt(job.id, 1, "x"),
        lambda: store.jobs.set_adapter(job.id, 1, "u", "s"),
        lambda: store.ledger.update_checkpoint(job.id, 1, f"{job.id}-a1-s0", test_nll=0.5),
        lambda: store.ledger.checkpoint_stored(job.id, 1, f"{job.id}-a1-s0", uri="u", sha256="s", bytes=1),
    ):
        with pytest.raises(Fenced, match=f"attempt 1 no longer holds job {job.id}"):
            call()
    assert store.jobs.get(job.id) == before
    train(store, job, 1, 3, attempt=2)
    assert series(store, job) == [(1, 2), (2, 2), (3, 2)]


def test_a_step_that_the_checkpoint_holds_is_a_bug_and_refused(store: Store) -> None:
    job = running(store)
    train(store, job, 1, 2)
    save(store, job, 2)
    store.jobs.release(job.id, 1, "x", "y")
    store.jobs.claim(job.id, 2, "w")
    with pytest.raises(StepOutOfOrder, match=r"step 2 of job .* is part of the checkpoint that attempt 2 began from"):
        store.ledger.commit_step(job.id, step(2, attempt=2))
    with pytest.raises(StepOutOfOrder, match="is older than the one that attempt 2 began from"):
        store.ledger.commit_checkpoint(job.id, checkpoint(job, 1, attempt=2))


def test_resume_from_a_chosen_checkpoint_supersedes_later_ones(store: Store) -> None:
    job = running(store)
    names = {}
    for number in range(1, 7):
        train(store, job, number, number)
        names[number] = save(store, job, number, test=7.0 - number)
    assert store.jobs.get(job.id).best_checkpoint == names[6]
    store.jobs.finish(job.id, 1, JobState.FAILED, ErrorRecord("OUT_OF_MEMORY", "No room."))
    assert store.jobs.get(job.id).error == ErrorRecord("OUT_OF_MEMORY", "No room.")
    resumed = store.jobs.resume(job.id, names[2])
    assert (resumed.state, resumed.error, resumed.finish_time) == (JobState.QUEUED, None, 0.0)
    claim = store.jobs.claim(job.id, 2, "w")
    assert claim is not None
    assert claim.checkpoint is not None
    assert (claim.checkpoint.id, claim.job.best_checkpoint, claim.job.last_checkpoint) == (names[2],) * 3
    assert [(c.step, c.superseded) for c in store.ledger.checkpoints(job.id)] == [
        (1, False), (2, False), (3, True), (4, True), (5, True), (6, True),
    ]  # fmt: skip
    store.jobs.cancel(job.id)
    store.jobs.finish(job.id, 2, JobState.CANCELLED)
    with pytest.raises(CheckpointNotUsable, match="belongs to steps that a later attempt replaced"):
        store.jobs.resume(job.id, names[5])
    with pytest.raises(CheckpointNotUsable, match=f"job {job.id} has no checkpoint nothing"):
        store.jobs.resume(job.id, "nothing")
    assert store.jobs.resume(job.id, names[1]).state is JobState.QUEUED
    assert store.jobs.claim(job.id, 3, "w") is not None
    assert series(store, job) == [(1, 1)]


def test_cancelled_after_a_resume_the_series_ends_at_the_last_effective_step(store: Store) -> None:
    job = running(store)
    train(store, job, 1, 2)
    save(store, job, 2)
    train(store, job, 3, 9)
    store.jobs.release(job.id, 1, "x", "y")
    store.jobs.claim(job.id, 2, "w")
    train(store, job, 3, 4, attempt=2)
    assert store.jobs.cancel(job.id).control is Control.CANCEL
    assert store.ledger.commit_step(job.id, step(5, attempt=2)).control is Control.CANCEL
    done = store.jobs.finish(job.id, 2, JobState.CANCELLED)
    assert (done.state, done.step, done.effective.steps, done.work.steps) == (JobState.CANCELLED, 5, 5, 12)
    assert series(store, job) == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_pause_and_preempt_reach_the_loop_through_its_commits(store: Store) -> None:
    job = running(store)
    assert store.jobs.renew(job.id, 1) is Control.NONE
    store.jobs.preempt(job.id, 1, "SIGTERM")
    assert store.ledger.commit_step(job.id, step(1)).control is Control.PREEMPT
    save(store, job, 1)
    released = store.jobs.release(job.id, 1, "preempted", "The worker stops.")
    assert (released.state, released.control, released.failed_attempts) == (JobState.QUEUED, Control.NONE, 0)
    store.jobs.claim(job.id, 2, "w")
    assert store.jobs.pause(job.id).control is Control.PAUSE
    assert store.jobs.pause(job.id).state is JobState.PAUSING
    assert store.jobs.renew(job.id, 2) is Control.PAUSE
    assert store.jobs.finish(job.id, 2, JobState.PAUSED).state is JobState.PAUSED
    assert store.jobs.resume(job.id).state is JobState.QUEUED


def test_a_job_cancelled_while_pausing_is_cancelled_once_it_has_paused(store: Store) -> None:
    job = running(store)
    store.jobs.pause(job.id)
    assert store.jobs.cancel(job.id).state is JobState.PAUSING
    assert store.jobs.finish(job.id, 1, JobState.PAUSED).state is JobState.CANCELLED


def test_every_end_while_cancelling_is_cancelled_and_finish_may_be_repeated(store: Store) -> None:
    job = running(store)
    store.jobs.cancel(job.id)
    assert store.jobs.finish(job.id, 1, JobState.SUCCEEDED).state is JobState.CANCELLED
    assert store.jobs.finish(job.id, 1, JobState.SUCCEEDED).state is JobState.CANCELLED
    assert store.jobs.cancel(job.id).state is JobState.CANCELLED


def test_the_third_attempt_without_a_step_fails_the_job_with_the_last_error(store: Store) -> None:
    job = queued(store)
    for attempt in (1, 2, 3):
        assert store.jobs.claim(job.id, attempt, "w") is not None
        found = store.jobs.release(job.id, attempt, "oom", "No.", error=ErrorRecord("OUT_OF_MEMORY", f"No. {attempt}"))
    assert (found.state, found.error) == (JobState.FAILED, ErrorRecord("OUT_OF_MEMORY", "No. 3"))
    assert [event.message for event in events(store, job) if event.type == "NO_PROGRESS"] == [
        "3 attempts in a row ended without a new step; the job has failed"
    ]
    store.jobs.resume(job.id)
    assert store.jobs.get(job.id).failed_attempts == 0


def test_a_committed_step_or_a_preemption_is_no_attempt_without_progress(store: Store) -> None:
    job = queued(store)
    for attempt in range(1, 9):
        store.jobs.claim(job.id, attempt, "w")
        if attempt % 3 == 0:
            train(store, job, 1, 1, attempt)
        reason = "preempted" if attempt % 3 == 1 else "crash"
        assert store.jobs.release(job.id, attempt, reason, "x").state is JobState.QUEUED


def test_twenty_attempts_that_pass_no_earlier_step_fail_the_job(store: Store) -> None:
    job = queued(store)
    states = []
    for attempt in range(1, 22):
        store.jobs.claim(job.id, attempt, "w")
        train(store, job, 1, 4, attempt)
        states.append(store.jobs.release(job.id, attempt, "crash", "x").state)
    assert set(states[:-1]) == {JobState.QUEUED}
    found = store.jobs.get(job.id)
    assert (found.state, found.error) == (
        JobState.FAILED,
        ErrorRecord("NO_PROGRESS", "20 attempts in a row got no further than step 4", hint="See the logs of the host."),
    )


def test_without_a_checkpoint_the_next_attempt_begins_with_nothing(store: Store) -> None:
    job = running(store)
    store.ledger.commit_step(job.id, StepRecord(0, 1, test_nll_sum=5.0, test_weight_sum=1.0))
    train(store, job, 1, 3)
    store.jobs.release(job.id, 1, "crash", "x")
    claim = store.jobs.claim(job.id, 2, "w")
    assert claim is not None
    assert (claim.checkpoint, claim.job.step, claim.job.test_nll, claim.job.effective.nll) == (None, 0, None, 0.0)
    assert store.ledger.initial(job.id) is None
    store.ledger.commit_step(job.id, StepRecord(0, 2, test_nll_sum=4.0, test_weight_sum=1.0))
    assert store.jobs.get(job.id).test_nll == 4.0
    assert store.jobs.get(job.id).work.test_weight == 2.0


def test_checkpoints_are_updated_marked_best_and_removed_but_for_the_last_and_the_best(store: Store) -> None:
    job = running(store)
    first = save(store, job, 0)
    train(store, job, 1, 3)
    best, third = save(store, job, 1, test=1.0), save(store, job, 3, test=1.5)
    with pytest.raises(CheckpointNotUsable, match=f"checkpoint {best} is the best one and has to stay"):
        store.ledger.remove_checkpoint(job.id, 1, best)
    with pytest.raises(CheckpointNotUsable, match=f"checkpoint {third} is the last one and has to stay"):
        store.ledger.remove_checkpoint(job.id, 1, third)
    store.ledger.remove_checkpoint(job.id, 1, first)
    store.ledger.update_checkpoint(job.id, 1, third, test_nll=0.5)
    changed = store.ledger.checkpoint_stored(job.id, 1, third, uri="u", sha256="s", bytes=1)
    assert (changed.stored, changed.uri, changed.sha256, changed.probe_nll) == (True, "u", "s", 1 / 3)
    assert store.ledger.checkpoint(job.id) == changed
    assert store.jobs.get(job.id).best_checkpoint == third
    store.ledger.remove_checkpoint(job.id, 1, best)
    assert [c.id for c in store.ledger.checkpoints(job.id)] == [third]
    with pytest.raises(CheckpointNotUsable, match="has no checkpoint"):
        store.ledger.checkpoint_stored(job.id, 1, best, uri="u", sha256="s", bytes=1)
    with pytest.raises(NotFound, match="has no checkpoint"):
        store.ledger.checkpoint(job.id, best)


def test_a_checkpoint_committed_twice_is_announced_once(store: Store) -> None:
    job = running(store)
    for _ in range(2):
        save(store, job, 0)
    kinds = [entry.kind for entry in store.events.read(job.id)]
    assert kinds.count("checkpoint") == 1
    assert [event.type for event in events(store, job)].count("CHECKPOINT_SAVED") == 1


def test_deleting_leaves_no_key_and_is_refused_while_something_needs_the_job(store: Store) -> None:
    empty = set(store.redis.keys("*"))
    job = running(store)
    train(store, job, 1, 2)
    save(store, job, 2, test=1.0)
    with pytest.raises(InUse, match=f"job {job.id} is RUNNING; cancel it before it is deleted"):
        store.jobs.delete(job.id)
    store.jobs.finish(job.id, 1, JobState.SUCCEEDED)
    second = store.jobs.create(replace(SPEC, start_from=StartFrom(job.id)), request_id="r").job
    with pytest.raises(InUse, match=f"job {second.id} starts from job {job.id} and isn't finished"):
        store.jobs.delete(job.id)
    store.jobs.reject(second.id, ErrorRecord("X", "x"))
    store.jobs.delete(second.id)
    store.jobs.delete(job.id)
    assert set(store.redis.keys("*")) - empty == {"tl:run:counters"}


def test_jobs_are_listed_newest_first_page_by_page_and_filtered(store: Store) -> None:
    made = [store.jobs.create(replace(SPEC, metadata={"n": str(n % 2)})).job.id for n in range(7)]
    for job_id in made[:3]:
        store.jobs.queue(job_id, host="h", planned_steps=1)
    seen: list[str] = []
    token = ""
    while True:
        page = store.jobs.list(page_size=2, page_token=token)
        seen += [job.id for job in page.items]
        token = page.next_page_token
        if not token:
            break
    assert sorted(seen) == sorted(made)
    times = [store.jobs.get(name).create_time for name in seen]
    assert times == sorted(times, reverse=True)
    assert {job.id for job in store.jobs.list(states={JobState.QUEUED}).items} == set(made[:3])
    assert {job.id for job in store.jobs.list(metadata={"n": "1"}, owner="anna").items} == set(made[1::2])
    assert not store.jobs.list(owner="ben").items


def test_the_rate_counts_the_last_steps_of_this_attempt_only(store: Store) -> None:
    job = running(store)
    train(store, job, 1, 2)
    first = int(store.redis.xrevrange(f"tl:run:stream:{job.id}", count=1)[0][0].split("-")[0])
    import time

    while int(store.redis.time()[0] * 1000 + store.redis.time()[1] / 1000) < first + 50:
        time.sleep(0.005)
    train(store, job, 3, 3)
    rate = store.jobs.get(job.id).tokens_per_second
    assert 0 < rate <= 2 * 100 / 0.050
    save(store, job, 3)
    store.jobs.release(job.id, 1, "x", "y")
    store.jobs.claim(job.id, 2, "w")
    train(store, job, 4, 4, attempt=2)
    assert store.jobs.get(job.id).tokens_per_second == 0.0


def test_time_that_workers_hold_a_job_is_counted_and_priced_by_each_of_them(store: Store) -> None:
    job = queued(store)
    assert store.jobs.get(job.id).cost(1e10) is None

    def held(attempt: int, price: float | None, currency: str) -> JobRecord:
        assert store.jobs.claim(job.id, attempt, "w", price=price, currency=currency) is not None
        began = float(store.redis.hget(f"tl:run:job:{job.id}", "held_since"))
        store.redis.hset(f"tl:run:job:{job.id}", "held_since", f"{began - 1800}")  # it took the job half an hour ago
        running = store.jobs.get(job.id)
        assert running.training_seconds(running.held_since + 60) == pytest.approx(running.held_seconds + 60)
        store.jobs.release(job.id, attempt, "x", "y")
        return store.jobs.get(job.id)

    first = held(1, 3.0, "EUR")
    assert first.held_since == 0
    assert first.training_seconds(1e10) == pytest.approx(1800, abs=60)
    assert (first.cost(0.0), first.currency) == (pytest.approx(1.5, abs=0.05), "EUR")
    second = held(2, 5.0, "EUR")
    assert second.training_seconds(0.0) == pytest.approx(3600, abs=120)
    assert second.cost(0.0) == pytest.approx(4.0, abs=0.15)
    unpriced = held(3, None, "")
    assert unpriced.training_seconds(0.0) == pytest.approx(5400, abs=180)
    assert unpriced.cost(0.0) == pytest.approx(4.0, abs=0.15)
    store.jobs.cancel(job.id)
    assert store.jobs.get(job.id).training_seconds(1e10) == unpriced.held_seconds


def test_a_record_that_is_not_finite_never_reaches_the_ledger() -> None:
    with pytest.raises(ValueError, match="step 4: nll_sum is nan, only finite numbers enter the ledger"):
        step(4, nll=float("nan"))
    with pytest.raises(ValueError, match=r"step 4: weight_sum is 0.0; send a number above 0"):
        replace(step(4), weight_sum=0.0)
    with pytest.raises(ValueError, match="test_nll_sum and test_weight_sum come together"):
        replace(step(4), test_nll_sum=1.0)
    assert encode(step(1)).startswith('{"step":1,"attempt":1')


def test_parts_of_the_store_work_alone(redis_url: str) -> None:
    client = connect(redis_url)
    assert not Jobs(client).active()
    assert Ledger(client).steps("job-none") == []
    with pytest.raises(NotFound):
        Events(client).read("job-none")


def test_sums_by_dataset_of_a_mixture_are_exact_and_cut_with_the_series(store: Store) -> None:
    def mixed(number: int, attempt: int = 1) -> StepRecord:
        mix = (MixSums(number, 10 * number, 0.1 / number, 1.0), MixSums(1, 5, 1 / 3, 2.0))
        return replace(step(number, attempt), mix=mix)

    store.redis.hset("tl:api:dataset:ds-more", "state", "ready")
    spec = replace(SPEC, mix=(MixPart("ds-train", 0.7), MixPart("ds-more", 0.3)))
    job = running(store, spec)
    assert store.redis.smembers(f"tl:run:uses:{'ds-more'}") == {job.id}
    assert store.jobs.get(job.id).effective_mix == ()
    for number in range(1, 6):
        for _ in range(2):  # an answer that was lost
            assert store.ledger.commit_step(job.id, mixed(number)).outcome is Outcome.OK
        if number == 2:
            save(store, job, 2)
    assert store.ledger.steps(job.id) == [mixed(number) for number in range(1, 6)]
    found = store.jobs.get(job.id)
    assert found.effective_mix == found.work_mix
    nll = weight = 0.0
    for number in range(1, 6):
        nll, weight = nll + 0.1 / number, weight + 1.0
    assert found.work_mix[0] == MixSums(15, 150, nll, weight)
    store.jobs.release(job.id, 1, "worker_lost", "x")
    claim = store.jobs.claim(job.id, 2, "w2")
    assert claim is not None
    assert claim.job.effective_mix == (
        MixSums(3, 30, 0.1 + 0.1 / 2, 2.0),
        MixSums(2, 10, 1 / 3 + 1 / 3, 4.0),
    )
    assert claim.job.work_mix == found.work_mix
    store.ledger.commit_step(job.id, mixed(3, attempt=2))
    again = store.jobs.get(job.id)
    assert again.effective_mix[0].conversations == 6
    assert again.work_mix[0].conversations == 18
    store.jobs.finish(job.id, 2, JobState.SUCCEEDED)
    assert not store.redis.exists("tl:run:uses:ds-more")
