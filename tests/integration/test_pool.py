"""The pool of waiting jobs on a real Redis: order, shares, priorities, quotas, moves, and what a lost host leaves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from services.store.errors import IllegalEdge, NoHost, QuotaReached
from services.store.ledger import Outcome
from services.store.queueing.workers import registered
from services.store.records import (
    CheckpointRecord,
    HostRecord,
    JobRecord,
    JobSpec,
    JobState,
    ServedModelRecord,
    StepRecord,
)
from services.store.store import Store
from services.trainer.supervision.supervisor import Supervisor, SupervisorSettings
from tests.support.rq_workers import age, sign_in
from tests.support.store_fixtures import store_of_a_ledger

MODEL = (ServedModelRecord("tuft/m"),)
SPEC = JobSpec("m", "tuft/m", "ds")
store = pytest.fixture(store_of_a_ledger)


@pytest.fixture
def watcher(store: Store, redis_url: str) -> Supervisor:
    return Supervisor(store, SupervisorSettings(redis_url, host_lost=600.0))


def host(store: Store, name: str, workers: int = 1) -> None:
    store.hosts.put(HostRecord(name, models=MODEL, backend_up=True), ttl=3600.0)
    sign_in(store, f"train.{name}", workers)


def waiting(store: Store, spec: JobSpec = SPEC) -> JobRecord:
    return store.jobs.queue(store.jobs.create(spec).job.id, host="", planned_steps=10)


def take(store: Store, job_id: str) -> JobRecord:
    """What the worker of its host does."""
    job = store.jobs.get(job_id)
    assert store.jobs.claim(job.id, job.attempt + 1, f"w-{job.id}", job.host) is not None
    return store.jobs.get(job.id)


def train(store: Store, job: JobRecord, steps: range, *, stored: int = -1) -> None:
    """Commit steps, each with a checkpoint; the one of step `stored` is copied to the store."""
    for number in steps:
        answer = store.ledger.commit_step(job.id, StepRecord(number, job.attempt, nll_sum=1.0, weight_sum=1.0))
        assert answer.outcome is Outcome.OK
        name = f"{job.id}-a{job.attempt}-s{number}"
        store.ledger.commit_checkpoint(job.id, CheckpointRecord(name, f"tinker://{name}", number, job.attempt))
        if number == stored:
            store.ledger.checkpoint_stored(job.id, job.attempt, name, uri="u", sha256="s", bytes=1)


def on_hosts(store: Store) -> list[JobRecord]:
    return list(store.jobs.get_many(store.pool.placed()))


def test_a_thousand_jobs_of_twenty_owners_share_five_hosts_evenly(store: Store, watcher: Supervisor) -> None:
    for number in range(5):
        host(store, f"h{number}")
    owners = [f"owner-{number}" for number in range(20)]
    for owner in owners:  # batches of very different sizes, one after the other
        for _ in range(10 + 8 * owners.index(owner) // 2):
            waiting(store, replace(SPEC, owner=owner))
    assert len(store.pool.waiting()) == 960
    got: Counter[str] = Counter()
    chance = random.Random(7)
    for round_number in range(40):
        if round_number == 20:
            urgent = waiting(store, replace(SPEC, owner="owner-3", priority=5))
        for number in range(5):
            host(store, f"h{number}")
        watcher.round()
        running = on_hosts(store)
        assert len(running) == 5, "no host idles while a job that it could run waits"
        if round_number == 20:
            assert urgent.id in {job.id for job in running}, "a priority job starts next"
            got["owner-3"] -= 1
        for job in chance.sample(running, 5):
            got[job.spec.owner] += 1
            claimed = take(store, job.id)
            store.jobs.finish(job.id, claimed.attempt, JobState.SUCCEEDED)
    assert sum(got.values()) == 199
    assert max(got.values()) - min(got[owner] for owner in owners) <= 1, got
    equal = 199 / 20
    assert all(abs(got[owner] - equal) <= 0.1 * equal for owner in owners), got


def test_a_quota_holds_an_owner_back_and_nobody_else(store: Store, redis_url: str) -> None:
    watcher = Supervisor(store, SupervisorSettings(redis_url, quota_running=2))
    host(store, "h1", workers=4)
    for _ in range(4):
        waiting(store, replace(SPEC, owner="anna"))
    other = waiting(store, replace(SPEC, owner="ben"))
    watcher.round()
    assert sorted(job.spec.owner for job in on_hosts(store)) == ["anna", "anna", "ben"]
    assert store.tickets.depth("train.h1") == 3
    assert f"{other.id}-a1" in store.tickets.waiting("h1")
    watcher.round()
    assert len(on_hosts(store)) == 3


def test_a_quota_of_queued_jobs_refuses_the_next_and_counts_none_that_has_begun(store: Store) -> None:
    store.jobs.quota = 2
    host(store, "h1")
    first, _ = [waiting(store, replace(SPEC, owner="anna")) for _ in range(2)]
    with pytest.raises(QuotaReached, match="owner anna has as many jobs in the queue as the quota allows: 2"):
        store.jobs.create(replace(SPEC, owner="anna"))
    with pytest.raises(QuotaReached, match="owner anna has 2 jobs in the queue, and 1 more would be over the quota: 2"):
        store.jobs.check_room("anna", 1)
    waiting(store, replace(SPEC, owner="ben"))
    Supervisor(store, SupervisorSettings("")).round()
    taken = take(store, first.id)
    third = waiting(store, replace(SPEC, owner="anna"))
    store.jobs.release(first.id, taken.attempt, "preempted", "Left.")  # comes back beside the two that wait
    assert store.redis.scard("tl:run:queue:anna") == 3
    store.jobs.cancel(third.id)
    with pytest.raises(QuotaReached):
        store.jobs.resume(third.id)
    assert store.jobs.get(third.id).state is JobState.CANCELLED
    for job in store.jobs.active():
        store.jobs.cancel(job.id)
    assert store.redis.keys("tl:run:queue:*") == []


def test_a_job_that_asks_for_a_host_waits_for_it_and_says_when_it_is_silent(store: Store, redis_url: str) -> None:
    watcher = Supervisor(store, SupervisorSettings(redis_url, host_lost=0.0))
    host(store, "h1")
    pinned = waiting(store, replace(SPEC, host="h2"))
    watcher.round()
    now = store.jobs.get(pinned.id)
    assert (now.host, now.host_lost) == ("", True)
    host(store, "h2")
    watcher.round()
    assert store.jobs.get(pinned.id).host == "h2"


def test_two_supervisors_give_a_job_away_once(store: Store) -> None:
    from services.store.pool.placing import choose

    host(store, "h1", workers=2)
    job = waiting(store)
    choices = choose(store.pool.waiting(), store.pool.load())
    assert store.pool.assign(choices) == [job.id]
    assert store.pool.assign(choices) == []
    assert [event.type for event in store.events.list(job.id).items].count("JOB_PLACED") == 1


def test_cancelling_a_waiting_job_takes_it_out_of_the_pool(store: Store, watcher: Supervisor) -> None:
    job = waiting(store)
    store.jobs.cancel(job.id)
    host(store, "h1")
    watcher.round()
    assert store.pool.waiting() == []
    assert on_hosts(store) == []
    store.jobs.resume(job.id, host="")
    watcher.round()
    assert store.jobs.get(job.id).host == "h1"


def test_the_job_of_a_lost_host_goes_on_elsewhere_from_its_newest_stored_checkpoint(
    store: Store, redis_url: str
) -> None:
    host(store, "h1")
    job = waiting(store)
    Supervisor(store, SupervisorSettings(redis_url)).round()
    held = take(store, job.id)
    train(store, held, range(1, 5), stored=3)
    store.redis.delete(f"tl:run:lease:{job.id}")
    store.jobs.expire(job.id)
    store.redis.delete("tl:run:host:h1")  # its record expired
    store.redis.zadd("tl:run:hosts", {"h1": 1.0})
    host(store, "h2")
    lost = Supervisor(store, SupervisorSettings(redis_url, host_lost=0.0))
    lost.round()
    now = store.jobs.get(job.id)
    assert (now.state, now.host, now.failed_attempts) == (JobState.QUEUED, "h2", 0)
    assert f"{job.id}-a2" not in store.tickets.waiting("h1")
    assert store.jobs.claim(job.id, 2, "the old host is back", "h1") is None
    assert store.ledger.commit_step(job.id, StepRecord(5, 1, nll_sum=1.0, weight_sum=1.0)).outcome is Outcome.FENCED
    claim = store.jobs.claim(job.id, 2, "w2", "h2")
    assert claim is not None
    assert claim.checkpoint is not None
    assert (claim.checkpoint.step, claim.job.step) == (3, 3)
    said = next(event for event in store.events.list(job.id).items if event.type == "HOST_CHANGED")
    assert f"from the stored checkpoint {job.id}-a1-s3" in said.message


def test_a_running_job_is_moved_when_it_has_saved_and_not_back(store: Store, watcher: Supervisor) -> None:
    host(store, "h1")
    job = waiting(store)
    watcher.round()
    held = take(store, job.id)
    store.jobs.ask_move(job.id, "")
    assert store.jobs.renew(job.id, 1).value == "preempt"
    train(store, held, range(1, 3), stored=2)
    released = store.jobs.release(job.id, 1, "moved", "The job was moved by request.")
    assert (released.state, released.host) == (JobState.QUEUED, "")
    watcher.round()
    assert store.jobs.get(job.id).host == "", "only the host that it left is there"
    host(store, "h2")
    watcher.round()
    assert store.jobs.get(job.id).host == "h2"
    with pytest.raises(IllegalEdge, match="only a QUEUED or RUNNING job is moved"):
        store.jobs.ask_move(job.id, "h3")


def test_a_host_that_is_full_or_down_is_passed_over(store: Store, watcher: Supervisor) -> None:
    host(store, "h1")
    store.hosts.put(HostRecord("h2", models=MODEL, backend_up=False))
    sign_in(store, "train.h2")
    jobs = [waiting(store) for _ in range(3)]
    watcher.round()
    watcher.round()
    assert [store.jobs.get(job.id).host for job in jobs] == ["h1", "", ""]
    with pytest.raises(NoHost):
        store.hosts.able("tuft/other", 4)


def test_a_host_whose_only_worker_was_killed_is_passed_over_though_rq_still_lists_it(
    store: Store, watcher: Supervisor
) -> None:
    host(store, "h1")
    host(store, "h2")
    (killed,) = store.redis.smembers(registered("train.h1"))
    age(store, killed)
    jobs = [waiting(store) for _ in range(2)]
    watcher.round()
    assert [store.jobs.get(job.id).host for job in jobs] == ["h2", ""]
    assert {record.name: record.workers for record in store.hosts.list()} == {"h1": 0, "h2": 1}
    assert store.redis.smembers(registered("train.h1")) == {killed}
    host(store, "h1")  # its next sign
    watcher.round()
    assert [store.jobs.get(job.id).host for job in jobs] == ["h2", "h1"]


def test_of_two_hosts_the_one_with_more_workers_that_are_there_is_free_first(store: Store, watcher: Supervisor) -> None:
    host(store, "h1", workers=3)
    host(store, "h2", workers=2)
    for killed in sorted(store.redis.smembers(registered("train.h1")))[:2]:
        age(store, killed)
    jobs = [waiting(store) for _ in range(4)]
    watcher.round()
    placed = Counter(store.jobs.get(job.id).host for job in jobs)
    assert placed == {"h2": 2, "h1": 1, "": 1}
    take(store, jobs[0].id)
    assert not store.pool.load().has_room(), "a busy worker is a worker, and not free"


def test_lists_by_state_owner_and_label_are_those_of_a_full_scan(store: Store, watcher: Supervisor) -> None:
    watcher.round()  # makes the indexes, from then on lists use them
    chance = random.Random(3)
    made = []
    for number in range(60):
        labels = {"kind": chance.choice("ab"), "n": str(number % 7)}
        spec = replace(SPEC, owner=chance.choice(["anna", "ben"]), metadata=labels)
        job = waiting(store, spec)
        if chance.random() < 0.4:
            store.jobs.cancel(job.id)
        made.append(store.jobs.get(job.id))
    store.jobs.delete(next(job.id for job in made if job.state is JobState.CANCELLED))
    everything = store.jobs.list(page_size=1000).items
    assert len(everything) == 59
    for states in ((), (JobState.QUEUED,), (JobState.QUEUED, JobState.CANCELLED), (JobState.RUNNING,)):
        for owner in (None, "anna", "nobody"):
            for metadata in ({}, {"kind": "a"}, {"kind": "a", "n": "3"}):
                wanted = [
                    job.id
                    for job in everything
                    if (not states or job.state in states)
                    and owner in (None, job.spec.owner)
                    and metadata.items() <= dict(job.spec.metadata).items()
                ]
                found: list[str] = []
                token = ""
                while True:
                    page = store.jobs.list(page_size=7, page_token=token, states=states, owner=owner, metadata=metadata)
                    found += [job.id for job in page.items]
                    token = page.next_page_token
                    if not token:
                        break
                assert found == wanted


def test_jobs_of_an_earlier_version_come_into_the_indexes(store: Store, watcher: Supervisor) -> None:
    jobs = [waiting(store) for _ in range(3)]
    for key in store.redis.scan_iter("tl:run:state:*"):
        store.redis.delete(key)
    store.redis.delete("tl:run:waiting")
    host(store, "h1", workers=3)
    watcher.round()
    assert {store.jobs.get(job.id).host for job in jobs} == {"h1"}


@pytest.fixture(autouse=True)
def _no_leftover(store: Store) -> Iterator[None]:
    """After every test the indexes name exactly the jobs that are there."""
    yield
    for job in store.jobs.active():
        assert store.redis.zscore(f"tl:run:state:{job.state.value}", job.id) is not None
    named = [name for state in JobState for name in store.jobs.names_in((state,))]
    assert sorted(named) == sorted(store.redis.zrange("tl:run:jobs", 0, -1))
