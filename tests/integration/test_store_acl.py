"""Rights of each process on a real Redis 7, by the file that ships: enough for its work, and no more."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from services.store.errors import RedisForbids, RedisUnavailable
from services.store.queueing.queues import JOB_FUNCTION
from services.store.queueing.ticket_jobs import TicketJob, TicketWorker
from services.store.records import CheckpointRecord, HostRecord, JobRecord, JobSpec, JobState, StepRecord
from services.store.store import Store, open_store
from services.trainer.supervision.exporter import ExporterSettings, Source
from services.trainer.supervision.supervisor import Supervisor, SupervisorSettings
from tests.support.api_calls import MODEL, Start, make_dataset
from tests.support.rq_workers import sign_in
from tests.support.source_runs import Sources, Workers, poll, write_lines
from turnloom.client import TurnloomClient

ROOT = Path(__file__).parents[2]
User = Callable[[str], str]


@pytest.fixture
def owner(redis_url: str) -> Iterator[Store]:
    """Redis as its default user, who may do everything in tests."""
    owner = open_store(redis_url)
    version = str(owner.redis.info("server")["redis_version"])
    if int(version.partition(".")[0]) < 7:
        owner.close()
        pytest.skip(f"read-only key patterns need Redis 7, this server is {version}")
    owner.redis.hset("tl:api:dataset:ds", "state", "ready")
    yield owner
    owner.close()


@pytest.fixture
def user(owner: Store, redis_url: str) -> Iterator[User]:
    """Gives a user the line of deploy/redis/users.acl and answers its URL."""
    made: list[str] = []

    def make(name: str) -> str:
        text = (ROOT / "deploy/redis/users.acl").read_text(encoding="utf-8")
        rule = re.search(rf"^user {name} (.*)$", text, re.MULTILINE)
        assert rule is not None, f"users.acl has no user {name}"
        words = re.sub("@[A-Z_]+@", hashlib.sha256(b"pw").hexdigest(), rule[1]).split()
        owner.redis.execute_command("ACL", "SETUSER", name, "reset", *words)
        made.append(name)
        return redis_url.replace("redis://", f"redis://{name}:pw@")

    yield make
    for name in made:
        owner.redis.execute_command("ACL", "DELUSER", name)


def queued(owner: Store) -> JobRecord:
    return owner.jobs.queue(owner.jobs.create(JobSpec("m", "m", "ds")).job.id, host="h", planned_steps=2)


def refused(store: Store, *commands: tuple[str, ...]) -> None:
    for command in commands:
        with pytest.raises(RedisForbids, match="no permissions"):
            store.redis.execute_command(*command)


class Ticket(TicketJob):
    """A trainer's ticket whose function is harmless here: the claim is dropped."""

    allowed = frozenset({JOB_FUNCTION})


class Worker(TicketWorker):
    """As services.trainer.worker's."""

    job_class = Ticket


def test_a_trainer_does_all_its_work_and_cannot_touch_what_others_write(owner: Store, user: User) -> None:
    job = queued(owner)
    trainer = open_store(user("trainer"), lease_ttl=0.01)
    try:
        trainer.hosts.put(HostRecord("h"))
        sign_in(trainer, "train.h")
        assert [host.workers for host in trainer.hosts.list()] == [1]
        assert trainer.jobs.claim(job.id, 1, "w") is not None
        trainer.ledger.commit_checkpoint(job.id, CheckpointRecord("c", "p", 0, 1))
        trainer.ledger.commit_step(job.id, StepRecord(1, 1, nll_sum=1.0, weight_sum=1.0, phase_seconds={"data": 0.1}))
        trainer.jobs.renew(job.id, 1)
        trainer.tickets.enqueue(trainer.jobs.release(job.id, 1, "preempted", "x"), front=True)
        assert trainer.jobs.claim(job.id, 2, "w") is not None
        trainer.jobs.finish(job.id, 2, JobState.SUCCEEDED)
        worker = Worker("train.h", trainer.rq, look_every=1)
        assert worker.work(burst=True), "it took the ticket"
        assert trainer.datasets._client.hget("tl:api:dataset:ds", "state") == "ready"
        refused(
            trainer,
            ("HSET", "tl:api:dataset:ds", "state", "failed"),
            ("SET", "tl:schema", "2"),
            ("LPUSH", "rq:queue:preprocess", "x"),
            ("SET", "other", "1"),
            ("FLUSHALL",),
        )
    finally:
        trainer.close()


def test_a_supervisor_does_all_its_work(owner: Store, user: User) -> None:
    job = queued(owner)
    assert owner.jobs.claim(job.id, 1, "w") is not None
    owner.redis.delete(f"tl:run:lease:{job.id}")
    url = user("supervisor")
    watching = open_store(url, lease_ttl=0.01)
    try:
        supervisor = Supervisor(watching, SupervisorSettings(url, lease_ttl=0.01))
        supervisor.round()
        supervisor.tidy_files()
        refused(watching, ("SET", "other", "1"), ("FLUSHALL",), ("CONFIG", "GET", "*"))
    finally:
        watching.close()


def test_the_api_does_all_its_work(owner: Store, user: User) -> None:
    api = open_store(user("api"))
    try:
        job = api.jobs.queue(api.jobs.create(JobSpec("m", "m", "ds"), request_id="r").job.id, host="h", planned_steps=2)
        api.tickets.enqueue(job)
        api.tickets.drop(job)
        api.jobs.cancel(job.id)
        assert api.events.read(job.id)
        api.jobs.delete(job.id)
        refused(api, ("SET", "other", "1"), ("CONFIG", "GET", "*"), ("KEYS", "*"))
    finally:
        api.close()


def test_a_preprocess_worker_makes_datasets_and_cannot_touch_training(
    owner: Store, user: User, start_api: Start, model_folder: Path, tmp_path: Path
) -> None:
    roots = tmp_path / "sources"
    roots.mkdir()
    (tmp_path / "models.toml").write_text(f'[[models]]\nname = "{MODEL}"\nsource = "{model_folder}"\n')
    url = user("preprocess-worker")
    environment = {"TURNLOOM_STORE_URL": str(tmp_path / "store"), "TURNLOOM_MODELS": str(tmp_path / "models.toml")}
    environment |= {"TURNLOOM_REDIS_URL": url, "TURNLOOM_SOURCE_ROOTS": str(roots), "TURNLOOM_LOG_LEVEL": "warning"}
    sources = Sources(start_api(user("api"), source_roots=(str(roots),)), roots, Workers(environment))
    owner.redis.acl_log_reset()
    try:
        worker = sources.workers.start()
        assert sources.ready(write_lines(roots / "chats.jsonl", 5_000)).conversations == 5_000
        sources.failed(sources.create(roots / "nothing.jsonl"))
        with TurnloomClient(sources.api.address) as client:  # what the doctor asks of the worker is a ticket, too
            found = {check.name: check for check in client.hosts.diagnose()}
        denied = [line for line in owner.redis.acl_log() if line["username"] == "preprocess-worker"]
        assert not denied, "a ticket's end is denied"
        assert found["worker_models"].outcome == "ok", found
        worker.terminate()
        assert worker.wait(60) == 0
    finally:
        sources.workers.end()
    assert make_dataset(sources.api).examples == 10
    worker_store = open_store(url)
    try:
        refused(
            worker_store,
            ("LPUSH", "rq:queue:train.h", "x"),
            ("LRANGE", "rq:queue:train.h", "0", "-1"),
            ("HSET", "rq:job:job-1-a1", "data", "x"),
            ("HSET", "tl:run:job:1", "state", "failed"),
            ("SET", "tl:schema", "2"),
            ("KEYS", "*"),
        )
    finally:
        worker_store.close()


@pytest.mark.parametrize("name", ["trainer", "preprocess-worker"])
def test_a_process_that_may_not_write_the_version_waits_for_one_that_may(owner: Store, user: User, name: str) -> None:
    url = user(name)
    owner.redis.delete("tl:schema")
    with pytest.raises(RedisUnavailable, match="Redis holds no schema version yet; start the API or the supervisor"):
        open_store(url)


def test_the_exporter_reads_everything_and_neither_writes_nor_runs_scripts(owner: Store, user: User) -> None:
    job = queued(owner)
    owner.tickets.enqueue(job)
    owner.hosts.put(HostRecord("h"))
    sign_in(owner, "train.h")
    source = Source(ExporterSettings(user("exporter")))
    try:
        snapshot = source()
        assert [run.id for run in snapshot.runs] == [job.id]
        assert [(queue.name, queue.waiting) for queue in snapshot.queues] == [("train.h", 1)]
        assert [host.workers for host in snapshot.load.hosts] == [1]
        for command in (*(("SET", key, "1") for key in ("tl:run:x", "tl:api:x", "rq:x")), ("EVAL", "return 1", "0")):
            with pytest.raises(RedisForbids, match="no permissions"):
                source._client.execute_command(*command)
    finally:
        source.close()


def test_a_right_that_is_missing_is_an_outage_until_it_is_given(owner: Store, redis_url: str, start_api: Start) -> None:
    def may(*words: str) -> None:
        owner.redis.execute_command("ACL", "SETUSER", "few", "reset", "on", ">pw", "~*", "&*", *words)

    url = redis_url.replace("redis://", "redis://few:pw@")
    health = HealthCheckRequest(service="turnloom.v1.FineTuningService")
    try:
        may("+@all", "-ping", "-hset")
        api = start_api(url)
        store = open_store(url)
        for call in (store.redis.ping, lambda: store.jobs.create(JobSpec("m", "m", "ds"))):  # a command, and a script
            with pytest.raises(RedisForbids, match=r"^Redis does not permit this \(.*users\.acl$"):
                call()
        looks = HealthStub(api.channel)
        assert looks.Check(health, timeout=30).status == HealthCheckResponse.NOT_SERVING
        may("+@all")
        poll(lambda: looks.Check(health, timeout=30).status == HealthCheckResponse.SERVING, 60)
        store.close()
    finally:
        owner.redis.execute_command("ACL", "DELUSER", "few")
