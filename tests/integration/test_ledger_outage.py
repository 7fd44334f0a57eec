"""Redis killed, cut short, full and away: nothing accepted is lost without being reported."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from services.preprocess.jobs.diagnosis import redis_role
from services.store.connection import check_schema, connect
from services.store.errors import Fenced, RedisUnavailable, SchemaMismatch
from services.store.ledger import Outcome
from services.store.records import CheckpointRecord, Control, JobSpec, JobState, StepRecord
from services.store.retries import retry_redis
from services.store.store import Store, open_store
from services.trainer.journal import LedgerJournal
from services.trainer.lease import Lease
from tests.support.store_fixtures import running

if TYPE_CHECKING:
    from tests.support.redis_fixtures import RedisServer


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Store]:
    store = open_store(redis_server.url)
    store.redis.config_set("appendfsync", "always")  # everysec puts writes off while the disk is slow
    store.redis.hset("tl:api:dataset:ds", "state", "ready")
    yield store
    store.close()


def step(number: int, attempt: int = 1) -> StepRecord:
    return StepRecord(number, attempt, tokens=3, nll_sum=number / 7, weight_sum=1.5)


def test_a_killed_redis_comes_back_with_every_commit(store: Store, redis_server: RedisServer) -> None:
    job = running(store)
    for number in range(1, 6):
        store.ledger.commit_step(job.id, step(number))
    before = store.jobs.get(job.id)
    redis_server.kill()
    with pytest.raises(RedisUnavailable, match=r"Redis can't be reached \(.*\); is it running"):
        store.ledger.commit_step(job.id, step(6))
    redis_server.start()
    assert store.jobs.get(job.id) == before
    assert store.ledger.commit_step(job.id, step(6)).outcome is Outcome.OK


def test_a_lost_tail_is_a_gap_and_sending_it_again_makes_the_same_ledger(
    store: Store, redis_server: RedisServer
) -> None:
    job = running(store)
    store.ledger.commit_checkpoint(job.id, CheckpointRecord("c0", "p", 0, 1))
    sent = [step(number) for number in range(1, 9)]
    for record in sent[:4]:
        store.ledger.commit_step(job.id, record)
    wait_until(lambda: redis_server.log_size > 0)
    size = redis_server.log_size
    for record in sent[4:]:
        store.ledger.commit_step(job.id, record)
    store.ledger.commit_checkpoint(job.id, CheckpointRecord("c8", "p", 8, 1))
    complete = store.jobs.get(job.id)
    redis_server.kill()
    redis_server.lose_tail(size)
    redis_server.start()
    answer = store.ledger.commit_step(job.id, step(9))
    assert (answer.outcome, answer.last, answer.checkpoint_step) == (Outcome.GAP, 4, 0)
    for record in sent[answer.last :]:
        assert store.ledger.commit_step(job.id, record).outcome is Outcome.OK
    store.ledger.commit_checkpoint(job.id, CheckpointRecord("c8", "p", 8, 1))
    assert store.ledger.steps(job.id) == sent
    found = store.jobs.get(job.id)
    assert (found.effective, found.work, found.last_checkpoint) == (complete.effective, complete.work, "c8")


def test_an_evaluation_that_came_late_is_sent_again_when_redis_lost_it(store: Store, redis_server: RedisServer) -> None:
    job = running(store)
    for number in (1, 2):
        store.ledger.commit_step(job.id, step(number))
    store.ledger.commit_checkpoint(job.id, CheckpointRecord("c2", "p", 2, 1))
    store.jobs.release(job.id, 1, "x", "y")
    store.jobs.claim(job.id, 2, "w")
    wait_until(lambda: redis_server.log_size > 0)
    size = redis_server.log_size
    tested = replace(step(2, attempt=2), test_nll_sum=3.0, test_weight_sum=1.5)
    sent = [tested, step(3, attempt=2), step(4, attempt=2)]
    with LedgerJournal(
        store.ledger,
        job.id,
        lease=Lease(lambda: Control.NONE, 60.0),
        preempted=threading.Event(),
        patience=60.0,
        clock=time.monotonic,
        events=lambda *_told: None,
        saved=lambda _checkpoint: None,
    ) as journal:
        for record in sent:
            journal.step(record)
        journal.drain()
        redis_server.kill()
        redis_server.lose_tail(size)
        redis_server.start()
        assert store.jobs.get(job.id).test_nll is None
        journal.step(step(5, attempt=2))
        journal.drain()
    assert store.ledger.steps(job.id) == [step(1), *sent, step(5, attempt=2)]
    found = store.jobs.get(job.id)
    assert (found.test_nll, found.test_step, found.work.steps, found.work.test_nll) == (2.0, 2, 5, 3.0)


def test_a_claim_that_redis_forgot_is_fenced(store: Store, redis_server: RedisServer) -> None:
    job = store.jobs.queue(store.jobs.create(JobSpec("m", "m", "ds")).job.id, host="h", planned_steps=9)
    size = redis_server.log_size
    assert store.jobs.claim(job.id, 1, "w") is not None
    redis_server.kill()
    redis_server.lose_tail(size)
    redis_server.start()
    assert store.jobs.get(job.id).state is JobState.QUEUED
    assert store.ledger.commit_step(job.id, step(1)).outcome is Outcome.FENCED
    with pytest.raises(Fenced, match="attempt 1 no longer holds"):
        store.jobs.renew(job.id, 1)
    assert store.jobs.claim(job.id, 1, "w2") is not None


def test_a_full_redis_refuses_a_commit_whole_and_takes_it_later(store: Store) -> None:
    job = running(store)
    store.ledger.commit_step(job.id, step(1))
    before = store.jobs.get(job.id)
    store.redis.config_set("maxmemory", "1")
    for call in (
        lambda: store.ledger.commit_step(job.id, step(2)),
        lambda: store.ledger.commit_checkpoint(job.id, CheckpointRecord("c", "p", 1, 1)),
        lambda: store.jobs.finish(job.id, 1, JobState.SUCCEEDED),
        lambda: store.jobs.release(job.id, 1, "x", "y"),
        lambda: store.jobs.cancel(job.id),
        lambda: store.events.append(job.id, "info", "X", "x"),
        lambda: store.jobs.create(JobSpec("m", "m", "ds"), request_id="r"),
    ):
        with pytest.raises(RedisUnavailable, match=r"Redis refuses writes .*; give it memory or disk"):
            call()
    assert store.jobs.get(job.id) == before
    assert store.ledger.checkpoints(job.id) == []
    store.redis.config_set("maxmemory", "0")
    assert store.ledger.commit_step(job.id, step(2)).last == 2
    assert len(store.jobs.list().items) == 1


def test_a_redis_that_became_a_replica_says_so(store: Store) -> None:
    job = running(store)
    store.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(RedisUnavailable, match=r"^Redis is read-only .*REPLICAOF NO ONE"):
            store.ledger.commit_step(job.id, step(1))
        with pytest.raises(RedisUnavailable, match=r"^Redis is read-only"):
            store.redis.set("x", "y")
        assert [(check.name, check.outcome) for check in redis_role(store)] == [("redis_role", "failed")]
    finally:
        store.redis.execute_command("REPLICAOF", "NO", "ONE")
    assert [check.outcome for check in redis_role(store)] == ["ok"]
    assert store.ledger.commit_step(job.id, step(1)).last == 1


def test_a_claim_on_a_full_redis_changes_nothing(store: Store) -> None:
    job = store.jobs.queue(store.jobs.create(JobSpec("m", "m", "ds")).job.id, host="h", planned_steps=9)
    store.redis.config_set("maxmemory", "1")
    with pytest.raises(RedisUnavailable):
        store.jobs.claim(job.id, 1, "w")
    assert store.jobs.get(job.id) == job
    store.redis.config_set("maxmemory", "0")
    assert store.jobs.claim(job.id, 1, "w") is not None


def test_own_writes_are_repeated_until_redis_is_back(store: Store, redis_server: RedisServer) -> None:
    job = running(store)
    redis_server.kill()
    tries: list[str] = []
    starter = threading.Thread(target=lambda: (wait_until(lambda: len(tries) >= 2), redis_server.start()))
    starter.start()
    answer = retry_redis(
        lambda: store.ledger.commit_step(job.id, step(1)), seconds=60, on_retry=lambda error: tries.append(str(error))
    )
    starter.join()
    assert answer.outcome is Outcome.OK
    assert len(tries) >= 2
    assert store.ledger.steps(job.id) == [step(1)]


def test_patience_ends_with_the_last_error() -> None:
    moments = iter([0.0, 1.0, 2.0, 5.0])
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise RedisUnavailable("away")

    stop = threading.Event()
    with pytest.raises(RedisUnavailable, match="away"):
        retry_redis(fail, seconds=3.0, stop=stop, clock=lambda: next(moments))
    assert len(calls) == 3
    stop.set()
    with pytest.raises(RedisUnavailable):
        retry_redis(fail, seconds=300.0, stop=stop)
    assert len(calls) == 4


def test_a_hanging_redis_is_given_up_in_time(redis_server: RedisServer) -> None:
    import os
    import signal

    client = connect(redis_server.url, socket_timeout=2.0)
    client.ping()
    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(RedisUnavailable, match="can't be reached"):
            client.get("x")
        assert time.monotonic() - began < 20
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)


def test_another_schema_version_is_refused(store: Store) -> None:
    check_schema(store.redis)
    store.redis.set("tl:schema", "99")
    with pytest.raises(SchemaMismatch, match="holds records of schema version 99, this program writes version 1"):
        check_schema(store.redis)


def wait_until(condition: object, seconds: float = 60.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
