"""Rights of each process on a real Redis 7, as docs/redis.md gives them: enough for its work, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import ResponseError
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from services.store.records import CheckpointRecord, HostRecord, JobSpec, JobState, StepRecord
from services.store.store import Store, open_store
from services.trainer.supervision.exporter import ExporterSettings, Source
from services.trainer.supervision.supervisor import Supervisor, SupervisorSettings

DOCUMENT = Path(__file__).parents[2] / "docs" / "redis.md"


@pytest.fixture
def owner(redis_url: str) -> Iterator[Store]:
    owner = open_store(redis_url)
    version = str(owner.redis.info("server")["redis_version"])
    if int(version.partition(".")[0]) < 7:
        owner.close()
        pytest.skip(f"read-only key patterns need Redis 7, this server is {version}")
    owner.redis.hset("tl:api:dataset:ds", "state", "ready")
    yield owner
    owner.close()


def as_user(owner: Store, redis_url: str, name: str) -> str:
    """Create the user as the page says and answer its URL."""
    rule = re.search(rf"^ACL SETUSER {name} (.*)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert rule is not None, f"docs/redis.md has no user {name}"
    owner.redis.execute_command("ACL", "SETUSER", name, "reset", *rule[1].replace("PASSWORD", "pw").split())
    return redis_url.replace("redis://", f"redis://{name}:pw@")


def test_a_trainer_does_all_its_work_and_cannot_touch_what_the_api_writes(owner: Store, redis_url: str) -> None:
    job = owner.jobs.queue(owner.jobs.create(JobSpec("m", "m", "ds")).job.id, host="h", planned_steps=2)
    trainer = open_store(as_user(owner, redis_url, "trainer"), lease_ttl=0.01)
    try:
        trainer.hosts.put(HostRecord("h"))
        assert trainer.jobs.claim(job.id, 1, "w") is not None
        trainer.ledger.commit_checkpoint(job.id, CheckpointRecord("c", "p", 0, 1))
        trainer.ledger.commit_step(job.id, StepRecord(1, 1, nll_sum=1.0, weight_sum=1.0, phase_seconds={"data": 0.1}))
        trainer.jobs.renew(job.id, 1)
        trainer.tickets.enqueue(trainer.jobs.release(job.id, 1, "preempted", "x"), front=True)
        supervisor = Supervisor(trainer, SupervisorSettings(redis_url, lease_ttl=0.01))
        supervisor.round()
        supervisor.tidy_files()
        assert trainer.jobs.claim(job.id, 2, "w") is not None
        trainer.jobs.finish(job.id, 2, JobState.SUCCEEDED)
        queues = [Queue("train.h", connection=trainer.rq, serializer=JSONSerializer)]
        worker = SimpleWorker(queues, connection=trainer.rq, serializer=JSONSerializer)
        assert worker.work(burst=True, logging_level="CRITICAL"), "it took the ticket"
        assert trainer.datasets._client.hget("tl:api:dataset:ds", "state") == "ready"
        for command in (("HSET", "tl:api:dataset:ds", "state", "failed"), ("SET", "other", "1"), ("FLUSHALL",)):
            with pytest.raises(ResponseError, match="no permissions"):
                trainer.redis.execute_command(*command)
    finally:
        trainer.close()


def test_the_api_does_all_its_work(owner: Store, redis_url: str) -> None:
    api = open_store(as_user(owner, redis_url, "api"))
    try:
        job = api.jobs.queue(api.jobs.create(JobSpec("m", "m", "ds"), request_id="r").job.id, host="h", planned_steps=2)
        api.tickets.enqueue(job)
        api.tickets.drop(job)
        api.jobs.cancel(job.id)
        assert api.events.read(job.id)
        api.jobs.delete(job.id)
        for command in (("SET", "other", "1"), ("CONFIG", "GET", "*"), ("KEYS", "*")):
            with pytest.raises(ResponseError, match="no permissions"):
                api.redis.execute_command(*command)
    finally:
        api.close()


def test_the_exporter_reads_everything_and_writes_nothing(owner: Store, redis_url: str) -> None:
    job = owner.jobs.queue(owner.jobs.create(JobSpec("m", "m", "ds")).job.id, host="h", planned_steps=2)
    owner.tickets.enqueue(job)
    source = Source(ExporterSettings(as_user(owner, redis_url, "exporter")))
    try:
        snapshot = source()
        assert [run.id for run in snapshot.runs] == [job.id]
        assert [(queue.name, queue.waiting) for queue in snapshot.queues] == [("train.h", 1)]
        for key in ("tl:run:x", "tl:api:x", "rq:x"):
            with pytest.raises(ResponseError, match="no permissions"):
                source._client.set(key, "1")
    finally:
        source.close()
