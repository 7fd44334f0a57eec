"""The ledger's rules for jobs on a real Redis: edges, claims, attempts, ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.store.connection import connect
from services.store.errors import IllegalEdge, InUse, NotFound, RequestMismatch
from services.store.events import Events
from services.store.jobs import Jobs
from services.store.ledger import Ledger
from services.store.records import Control, CutReport, ErrorRecord, JobRecord, JobState, StartFrom, StepRecord
from services.store.store import Store
from tests.support.ledger_steps import SPEC, events, queued, running, save, step, store_of_two_datasets, train


@pytest.fixture
def store(redis_url: str) -> Store:
    return store_of_two_datasets(redis_url)


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
    with pytest.raises(IllegalEdge, match="is QUEUED, only a PAUSED, FAILED or CANCELLED job is resumed"):
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


@pytest.mark.parametrize("reason", ["preempted", "server_restarted", "moved"])
def test_a_move_that_an_attempt_ended_before_is_told(store: Store, reason: str) -> None:
    job = running(store)
    store.jobs.ask_move(job.id, "")
    released = store.jobs.release(job.id, 1, reason, "It ends.")
    told = [event.message for event in events(store, job) if event.type == "NOT_MOVED"]
    if reason == "moved":
        assert (released.host, told) == ("", [])
        return
    assert (released.host, released.move_to) == ("h1", "")
    assert told == ["The attempt ended before the job was moved, so it stays on host h1; ask again."]


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
    assert set(store.redis.keys("*")) - empty == {"tl:run:counters", "tl:run:left-states", "tl:run:left-objects"}


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


def test_prices_in_two_currencies_are_not_added_and_an_event_says_so(store: Store) -> None:
    job = queued(store)

    def held(attempt: int, price: float, currency: str) -> JobRecord:
        assert store.jobs.claim(job.id, attempt, "w", price=price, currency=currency) is not None
        began = float(store.redis.hget(f"tl:run:job:{job.id}", "held_since"))
        store.redis.hset(f"tl:run:job:{job.id}", "held_since", f"{began - 3600}")
        store.jobs.release(job.id, attempt, "preempted", "y")
        return store.jobs.get(job.id)

    first = held(1, 3.0, "EUR")
    second = held(2, 1000.0, "JPY")
    assert (second.held_cost, second.currency) == (first.held_cost, "EUR")
    (told,) = [one for one in store.events.list(job.id, page_size=100).items if one.type == "COST_INCOMPLETE"]
    assert told.message.endswith(
        "has its price in JPY and the job's cost is in EUR: its hours there are not in the cost."
    )
    third = held(3, 3.0, "EUR")
    assert third.held_cost == pytest.approx(6.0, abs=0.1)


def test_parts_of_the_store_work_alone(redis_url: str) -> None:
    client = connect(redis_url)
    assert not Jobs(client).active()
    assert Ledger(client).steps("job-none") == []
    with pytest.raises(NotFound):
        Events(client).read("job-none")
