"""The supervisor on a real Redis: lost workers, tickets, hosts and validations; archives; one at a time."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.store import keys
from services.store.archive import archive_ledger
from services.store.archived import Archives, _read
from services.store.codec import RecordNotReadable
from services.store.connection import redis_time
from services.store.errors import StoreUnavailable
from services.store.jobs import MAX_IDLE_ATTEMPTS
from services.store.queueing.queues import ticket_id
from services.store.queueing.singleton import Singleton
from services.store.records import (
    CheckpointRecord,
    ErrorRecord,
    HostRecord,
    JobRecord,
    JobSpec,
    JobState,
    ServedModelRecord,
    StepRecord,
)
from services.store.steps import decode_step
from services.store.store import Store, open_store
from services.trainer.supervision import supervisor as module
from services.trainer.supervision.supervisor import Supervisor, SupervisorSettings, supervise
from tests.support.rq_workers import sign_in

if TYPE_CHECKING:
    from tests.support.redis_fixtures import RedisServer

TTL = 0.2  #: seconds that the supervisor waits after an outage
LEASE = 600.0  #: seconds; a test takes a lease away when it has to end
SPEC = JobSpec("m", "tuft/m", "ds")


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = open_store(redis_url, lease_ttl=LEASE)
    store.redis.hset("tl:api:dataset:ds", "state", "ready")
    wait_for(lambda: store.redis.info("server")["uptime_in_seconds"] >= 1)
    yield store
    store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watcher(store: Store, redis_url: str, clock: Clock) -> Supervisor:
    return Supervisor(store, SupervisorSettings(redis_url, lease_ttl=TTL, ticket_grace=5.0), clock)


def queued(store: Store, spec: JobSpec = SPEC, host: str = "h1") -> JobRecord:
    job = store.jobs.queue(store.jobs.create(spec).job.id, host=host, planned_steps=9)
    store.tickets.enqueue(job)
    return job


def take(store: Store, job: JobRecord, attempt: int = 1) -> None:
    """What a worker does: the ticket leaves the queue, then the claim."""
    store.redis.lrem(f"rq:queue:train.{job.host}", 1, ticket_id(job.id, attempt))
    assert store.jobs.claim(job.id, attempt, f"w{attempt}") is not None


def lose_lease(store: Store, job: JobRecord) -> None:
    store.redis.delete(keys.lease(job.id))


def step(number: int, attempt: int = 1) -> StepRecord:
    return StepRecord(number, attempt, tokens=5, nll_sum=1 / 3, weight_sum=2.0, phase_seconds={"data": 0.2})


def types(store: Store, job: JobRecord) -> list[str]:
    return [event.type for event in store.events.list(job.id).items]


def test_a_job_whose_worker_died_is_queued_again_with_the_next_attempt(store: Store, watcher: Supervisor) -> None:
    job = queued(store)
    take(store, job)
    store.ledger.commit_step(job.id, step(1))
    watcher.round()
    assert store.jobs.get(job.id).state is JobState.RUNNING, "its lease is alive"
    lose_lease(store, job)
    watcher.round()
    found = store.jobs.get(job.id)
    assert (found.state, found.attempt, found.worker) == (JobState.QUEUED, 1, "")
    assert store.tickets.waiting("h1") == [ticket_id(job.id, 2)]
    lost = next(event for event in store.events.list(job.id).items if event.type == "WORKER_LOST")
    assert lost.message == "Worker w1 stopped renewing its lease at step 1; the last checkpoint is none."
    assert lost.level == "warning"


def test_a_lease_that_runs_out_by_itself_is_noticed(store: Store, watcher: Supervisor, redis_url: str) -> None:
    job = queued(store)
    brief = open_store(redis_url, lease_ttl=TTL)
    take(brief, job)
    brief.close()

    def requeued() -> bool:
        watcher.round()
        return store.jobs.get(job.id).state is JobState.QUEUED

    wait_for(requeued)


def test_a_job_that_was_told_to_stop_comes_to_its_end_without_its_worker(store: Store, watcher: Supervisor) -> None:
    pausing, cancelling = queued(store), queued(store)
    for job in (pausing, cancelling):
        take(store, job)
    store.jobs.pause(pausing.id)
    store.jobs.cancel(cancelling.id)
    for job in (pausing, cancelling):
        lose_lease(store, job)
    watcher.round()
    assert store.jobs.get(pausing.id).state is JobState.PAUSED
    assert store.jobs.get(cancelling.id).state is JobState.CANCELLED
    assert store.tickets.waiting("h1") == []


def test_the_third_worker_lost_without_a_step_fails_the_job(store: Store, watcher: Supervisor) -> None:
    job = queued(store)
    for attempt in range(1, MAX_IDLE_ATTEMPTS + 1):
        take(store, job, attempt)
        lose_lease(store, job)
        watcher.round()
    found = store.jobs.get(job.id)
    assert found.state is JobState.FAILED
    assert found.error == ErrorRecord(
        "WORKER_LOST",
        "The worker stopped renewing its lease: it was killed, or its host or network is down.",
        hint="A worker killed by signal 9 usually ran out of memory; see the logs of its host.",
    )


def test_after_an_outage_workers_get_the_time_to_renew(store: Store, watcher: Supervisor, clock: Clock) -> None:
    job = queued(store)
    take(store, job)
    watcher.outage()
    lose_lease(store, job)
    watcher.round()
    assert store.jobs.get(job.id).state is JobState.RUNNING
    clock.now += TTL
    watcher.round()
    assert store.jobs.get(job.id).state is JobState.QUEUED


def test_a_clock_that_leaps_costs_no_attempt_and_no_host(
    store: Store, redis_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis's clock goes on while ours stands still, as when a machine slept."""
    limit = 3.0  #: of silence, after which a host is lost
    watcher = Supervisor(store, SupervisorSettings(redis_url, lease_ttl=TTL, host_lost=limit), clock)
    job, waiting = queued(store), queued(store)
    store.hosts.put(serving("h1"))
    store.hosts.put(serving("h2"))
    take(store, job)
    watcher.round()
    store.redis.zadd(keys.HOSTS, {"h1": redis_time(store.redis) - 60})  # both have not reported since
    store.redis.hset(keys.job(waiting.id), "queue_time", redis_time(store.redis) - 60)
    lose_lease(store, job)
    monkeypatch.setattr(module, "_JUMP", 0.0)
    watcher.round()
    monkeypatch.setattr(module, "_JUMP", 1e9)
    assert store.jobs.get(job.id).state is JobState.RUNNING, "its worker may renew first"
    assert store.jobs.get(waiting.id).host == "h1", "its host may report first"
    clock.now += TTL
    watcher.round()
    assert store.jobs.get(job.id).state is JobState.QUEUED
    assert store.jobs.get(waiting.id).host == "h1"
    clock.now += limit
    wait_for(lambda: store.redis.info("server")["uptime_in_seconds"] >= limit)
    watcher.round()
    assert "HOST_CHANGED" in types(store, waiting)


def test_a_lost_ticket_is_enqueued_again_after_the_grace(store: Store, watcher: Supervisor, clock: Clock) -> None:
    job = queued(store)
    watcher.round()
    store.redis.delete("rq:queue:train.h1")
    watcher.round()
    clock.now += 4.9
    watcher.round()
    assert store.tickets.waiting("h1") == []
    clock.now += 0.2
    watcher.round()
    assert store.tickets.waiting("h1") == [ticket_id(job.id, 1)]
    assert types(store, job)[-1] == "TICKET_RENEWED"
    clock.now += 60
    watcher.round()
    assert store.tickets.waiting("h1") == [ticket_id(job.id, 1)]


def test_a_validation_whose_api_died_fails(store: Store, watcher: Supervisor, clock: Clock) -> None:
    job = store.jobs.create(SPEC, request_id="r").job
    watcher.round()
    assert store.jobs.get(job.id).state is JobState.VALIDATING
    lose_lease(store, job)
    assert store.jobs.expire(job.id)
    found = store.jobs.get(job.id)
    assert (found.state, found.error and found.error.code) == (JobState.FAILED, "VALIDATION_LOST")


def test_the_request_of_a_lost_validation_makes_the_job_anew_but_for_a_cell_of_a_sweep(store: Store) -> None:
    lost = store.jobs.create(SPEC, request_id="r").job
    cell = store.jobs.create(replace(SPEC, sweep="sweep-1"), request_id="sweep-1:0").job
    for job in (lost, cell):
        lose_lease(store, job)
        assert store.jobs.expire(job.id)
    again = store.jobs.create(SPEC, request_id="r")
    assert (again.deduplicated, again.job.state) == (False, JobState.VALIDATING)
    store.jobs.delete(lost.id)
    assert store.jobs.create(SPEC, request_id="r").job.id == again.job.id, "what was deleted took no key along"
    assert store.jobs.create(replace(SPEC, sweep="sweep-1"), request_id="sweep-1:0").job.id == cell.id


def serving(name: str, *models: ServedModelRecord) -> HostRecord:
    return HostRecord(name, models=models or (ServedModelRecord("tuft/m", 64),), backend_up=True)


def test_a_job_without_steps_leaves_a_silent_host_and_others_say_that_they_wait(store: Store, redis_url: str) -> None:
    watcher = Supervisor(store, SupervisorSettings(redis_url, lease_ttl=TTL, host_lost=0.0))
    free, bound, begun = queued(store), queued(store, replace(SPEC, host="h1")), queued(store)
    take(store, begun)
    store.ledger.commit_step(begun.id, step(1))
    store.ledger.commit_checkpoint(begun.id, CheckpointRecord("c1", "p", 1, 1))
    store.tickets.enqueue(store.jobs.release(begun.id, 1, "preempted", "x"), front=True)
    watcher.round()
    assert store.jobs.get(free.id).host == "h1", "no host serves the model"
    store.hosts.put(serving("h2"))
    store.hosts.put(serving("h3", ServedModelRecord("tuft/other")))
    watcher.round()
    assert store.jobs.get(free.id).host == "", "it waits until a worker is free"
    sign_in(store, "train.h2")
    watcher = Supervisor(store, SupervisorSettings(redis_url, lease_ttl=TTL, host_lost=600.0))
    watcher.round()
    assert store.jobs.get(free.id).host == "h2"
    assert store.tickets.waiting("h2") == [ticket_id(free.id, 1)]
    assert ticket_id(free.id, 1) not in store.tickets.waiting("h1")
    assert [store.jobs.get(job.id).host for job in (bound, begun)] == ["h1", "h1"]
    why = {
        bound.id: "the job asks for that host",
        begun.id: f"no checkpoint of job {begun.id} is in the store, so only host h1 can go on with it",
    }
    for job in (bound, begun):
        lost = [event for event in store.events.list(job.id).items if event.type == "HOST_LOST"]
        assert [event.message for event in lost] == [f"Host h1 has been silent for 0 s; {why[job.id]}."]
    moved = next(event for event in store.events.list(free.id).items if event.type == "HOST_CHANGED")
    assert moved.message == "Host h1 has been silent for 0 s; the job goes on at another host, from its beginning."


def test_a_finished_ledger_is_archived_exactly_and_its_keys_expire(
    store: Store, redis_url: str, tmp_path: Path
) -> None:
    watcher = Supervisor(store, SupervisorSettings(redis_url, str(tmp_path), TTL, retention=3600.0))
    job = queued(store)
    take(store, job)
    store.ledger.commit_step(job.id, StepRecord(0, 1, test_nll_sum=0.1, test_weight_sum=0.3))
    store.ledger.commit_checkpoint(job.id, CheckpointRecord("c0", "p", 0, 1))
    for number in (1, 2):
        store.ledger.commit_step(job.id, step(number))
    store.jobs.release(job.id, 1, "crash", "x")
    store.jobs.claim(job.id, 2, "w")
    store.ledger.commit_step(job.id, step(1, attempt=2))
    store.jobs.finish(job.id, 2, JobState.SUCCEEDED)
    watcher.archive()
    found = store.jobs.get(job.id)
    assert found.archive_uri == f"{tmp_path}/ledgers/{job.id}.parquet"
    series = [store.ledger.initial(job.id), *store.ledger.steps(job.id)]
    archive = Archives(store.redis).of(job.id)
    assert archive is not None
    assert [decode_step(text) for text in archive.effective] == series
    steps = [decode_step(text) for _, kind, text in archive.entries if kind == "step"]
    assert steps == list(store.ledger.all_steps(job.id))
    kinds = (keys.stream(job.id), keys.series(job.id), keys.tests(job.id))
    assert all(0 < store.redis.pttl(key) <= 3600_000 for key in kinds)
    assert store.redis.pttl(keys.job(job.id)) == -1
    entries, told = list(store.events.watch(job.id)), store.events.list(job.id, page_size=3)
    page = store.ledger.steps(job.id, 2, 1)
    store.redis.delete(*kinds)  # from now on readers take the archive, and notice nothing
    assert list(store.events.watch(job.id)) == entries
    assert list(store.events.watch(job.id, entries[2].id)) == entries[3:]
    assert store.events.list(job.id, page_size=3) == told
    assert [store.ledger.initial(job.id), *store.ledger.steps(job.id)] == series
    assert store.ledger.steps(job.id, 2, 1) == page
    Path(found.archive_uri).unlink()
    _read.cache_clear()
    with pytest.raises(StoreUnavailable):
        store.events.read(job.id)


def test_a_ledger_of_a_job_that_can_be_resumed_stays_longer(store: Store, redis_url: str, tmp_path: Path) -> None:
    watcher = Supervisor(store, SupervisorSettings(redis_url, str(tmp_path), TTL, retention=9e3, retention_done=60.0))
    for state in (JobState.SUCCEEDED, JobState.FAILED):
        job = queued(store)
        take(store, job)
        store.jobs.finish(job.id, 1, state)
        watcher.archive()
        left = store.redis.pttl(keys.stream(job.id))
        assert (left <= 60_000) == (state is JobState.SUCCEEDED)


def test_a_job_deleted_while_its_ledger_is_archived_leaves_no_file(
    store: Store, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queued(store)
    take(store, job)
    store.jobs.finish(job.id, 1, JobState.SUCCEEDED)

    def archive_then_delete(*given: Any) -> str:
        uri = archive_ledger(*given)
        store.jobs.delete(job.id)
        return uri

    monkeypatch.setattr(module, "archive_ledger", archive_then_delete)
    Supervisor(store, SupervisorSettings(redis_url, str(tmp_path), TTL)).archive()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_job_resumed_after_its_archive_keeps_its_ledger(store: Store, redis_url: str, tmp_path: Path) -> None:
    watcher = Supervisor(store, SupervisorSettings(redis_url, str(tmp_path), TTL))
    job = queued(store)
    take(store, job)
    store.ledger.commit_step(job.id, step(1))
    store.jobs.finish(job.id, 1, JobState.FAILED, ErrorRecord("X", "x"))
    watcher.archive()
    resumed = store.jobs.resume(job.id)
    assert resumed.archive_uri == ""
    assert store.redis.pttl(keys.stream(job.id)) == -1
    watcher.archive()
    assert store.jobs.get(job.id).archive_uri == ""


def test_a_store_that_is_full_leaves_the_ledger_in_redis_and_is_tried_again(
    store: Store, redis_url: str, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    watcher = Supervisor(store, SupervisorSettings(redis_url, str(blocked), TTL), clock)
    job = queued(store)
    take(store, job)
    store.jobs.finish(job.id, 1, JobState.SUCCEEDED)
    with caplog.at_level(logging.WARNING):
        watcher.archive()
        watcher.archive()
    assert len([record for record in caplog.records if record.name == "turnloom.supervisor"]) == 1
    assert "its ledger stays in Redis for now: the object store can't serve" in caplog.text
    blocked.unlink()
    clock.now += 61
    watcher.archive()
    assert store.jobs.get(job.id).archive_uri != ""


def test_only_one_supervisor_is_at_work_and_the_next_takes_over(store: Store) -> None:
    first, second = (Singleton(store.redis, keys.SUPERVISOR, 60.0) for _ in range(2))
    assert first.hold()
    assert first.hold()
    assert not second.hold()
    assert 0 < store.redis.pttl(keys.SUPERVISOR) <= 60_000
    store.redis.pexpire(keys.SUPERVISOR, 1)  # as if a minute had passed
    wait_for(second.hold)
    assert not first.hold()
    first.give_up()
    assert second.hold(), "giving up what another holds changes nothing"
    second.give_up()
    assert first.hold()


def test_it_survives_an_outage_of_redis(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    settings = SupervisorSettings(redis_server.url, lease_ttl=5.0, interval=0.05, ticket_grace=0.2)
    thread = threading.Thread(target=supervise, args=(settings, stop))
    store = open_store(redis_server.url, lease_ttl=LEASE)
    store.redis.hset("tl:api:dataset:ds", "state", "ready")
    job = store.jobs.queue(store.jobs.create(SPEC).job.id, host="h1", planned_steps=9)
    store.jobs.claim(job.id, 1, "w1")
    thread.start()
    try:
        wait_for(lambda: store.redis.exists(keys.SUPERVISOR))
        redis_server.stop()
        with caplog.at_level(logging.WARNING):
            wait_for(lambda: "Redis can't be reached" in caplog.text)
        redis_server.start()
        store.jobs.renew(job.id, 1)
        lose_lease(store, job)
        wait_for(lambda: store.jobs.get(job.id).state is JobState.QUEUED)
        wait_for(lambda: store.tickets.waiting("h1") == [ticket_id(job.id, 2)])  # the ticket follows the state
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert not store.redis.exists(keys.SUPERVISOR)
    store.close()


def test_a_ledger_that_takes_long_to_archive_holds_up_no_recovery(
    store: Store, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archiving, go_on, stop = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: object) -> str:
        archiving.set()
        assert go_on.wait(120)
        return "uri"

    monkeypatch.setattr(module, "archive_ledger", slow)
    done, lost = queued(store), queued(store)
    for job in (done, lost):
        take(store, job)
    store.jobs.finish(done.id, 1, JobState.SUCCEEDED)
    lose_lease(store, lost)
    settings = SupervisorSettings(redis_url, str(tmp_path), lease_ttl=TTL, interval=0.05)
    thread = threading.Thread(target=supervise, args=(settings, stop))
    thread.start()
    try:
        assert archiving.wait(60)
        wait_for(lambda: store.jobs.get(lost.id).state is JobState.QUEUED)
        assert store.jobs.get(done.id).archive_uri == ""
    finally:
        go_on.set()
        wait_for(lambda: store.jobs.get(done.id).archive_uri == "uri")
        stop.set()
        thread.join(60)


def test_a_broken_record_does_not_end_the_recovery_of_others(
    store: Store, watcher: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    job = queued(store)
    take(store, job)
    lose_lease(store, job)
    store.redis.zadd(keys.state("running"), {"job-broken": 1})
    store.redis.hset(keys.job("job-broken"), mapping={"state": "running", "spec": "{}"})
    with caplog.at_level(logging.ERROR):
        watcher.round()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("turnloom")]
    assert ours == ["job job-broken is left out, its record can't be read: JobSpec.model: missing"]
    assert store.jobs.get(job.id).state is JobState.QUEUED
    with pytest.raises(RecordNotReadable, match=r"JobSpec\.model: missing"):
        store.jobs.get("job-broken")


def test_the_process_ends_cleanly_on_sigterm(store: Store, redis_url: str) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=module.run, args=(SupervisorSettings(redis_url, interval=0.05),)
    )
    process.start()
    wait_for(lambda: store.redis.exists(keys.SUPERVISOR), 120)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 0
    assert not store.redis.exists(keys.SUPERVISOR)
