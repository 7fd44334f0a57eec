"""An API, Redis, a worker and a fake TuFT that samples, with a job that has learned one reply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from services.preprocess.api.metrics import make_metrics
from services.preprocess.api.server import ApiServer
from services.preprocess.models.registry import Registry
from services.preprocess.settings import ApiSettings
from services.store.records import CheckpointRecord, JobState
from tests.fakes.fake_tuft import FakeTuft
from tests.support.api_calls import MODEL, TUFT_MODEL, chat, dataset_stream
from tests.support.redis_fixtures import RedisServer
from tests.support.trainer_stack import HOST, TrainerStack, wait_for
from turnloom.masks.model import Model
from turnloom.models_file import ModelEntry
from turnloom.v1 import training_pb2 as tr
from turnloom.v1.datasets_pb2_grpc import DatasetServiceStub
from turnloom.v1.training_pb2_grpc import FineTuningServiceStub

LIMIT = 60
LEASE = 5.0  #: seconds; a busy machine may keep a worker from renewing a shorter one, which costs an attempt
QUESTION, REPLY = "How are you?", "fine thanks"
HYPER = {"lora_rank": 16, "batch_size": 8, "learning_rate": 0.3, "eval_every": 0}


@dataclass
class Whole:
    """Everything that answers a prompt, and a job that has learned one reply."""

    stack: TrainerStack
    fake: FakeTuft
    model: Model
    address: str
    datasets: DatasetServiceStub
    jobs: FineTuningServiceStub
    dataset: str
    job: str = ""

    def sample(self, question: str = QUESTION, timeout: float = LIMIT, **fields: object) -> tr.SampleResponse:
        request = tr.SampleRequest(**{"job": self.job, "conversation": chat(question), **fields})  # type: ignore[arg-type]
        return self.jobs.Sample(request, timeout=timeout)

    def submit(self, steps: int) -> str:
        asked = tr.CreateJobRequest(
            model=MODEL, training_dataset=self.dataset, hyperparameters=tr.Hyperparameters(max_steps=steps, **HYPER)
        )
        return self.jobs.CreateJob(asked, timeout=LIMIT).job.id

    def probe(self) -> None:
        """The host as it is now."""

        def seen() -> bool:
            host = self.stack.store.hosts.get(HOST)
            return host is not None and [one.samples for one in host.models] == [self.fake.samples]

        assert self.stack.start("probe-host", "--allow-cpu", log="probe.log").wait(LIMIT) == 0
        wait_for(seen, "the host as probed")

    @property
    def untrained(self) -> CheckpointRecord:
        """Checkpoint 0."""
        return self.stack.store.ledger.checkpoints(self.job)[0]

    @property
    def last(self) -> CheckpointRecord:
        return self.stack.store.ledger.checkpoint(self.job)

    def calls_in_redis(self) -> set[str]:
        """Keys of calls, and their ids in RQ's lists and sets."""
        redis = self.stack.store.rq
        found = {key.decode() for key in redis.keys("*call-*")}
        lists = [key for key in redis.keys("rq:queue:*") if redis.type(key) == b"list"]
        sets = [key for key in redis.keys("rq:*") if redis.type(key) == b"zset"]
        inside = [item for key in lists for item in redis.lrange(key, 0, -1)]
        inside += [item for key in sets for item in redis.zrange(key, 0, -1)]
        return found | {item.decode() for item in inside if b"call-" in item}


@pytest.fixture(scope="module")
def whole(
    shared_redis: RedisServer, model_folder: Path, loaded_model: Model, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Whole]:
    """A trained job whose runs are released on the server; every test leaves it so."""
    folder = tmp_path_factory.mktemp("sample")
    shared_redis.flush()
    entry = ModelEntry(name=MODEL, source=str(model_folder), tuft_model_name=TUFT_MODEL)
    registry = Registry([entry], folder / "cache", lambda _entry, _cache: loaded_model)
    settings = ApiSettings(
        address="127.0.0.1:0", redis_url=shared_redis.url, store_url=str(folder / "store"), drain_seconds=5
    )
    server = ApiServer(settings, registry, make_metrics())
    address = server.start()
    assert registry.wait(60)
    with (
        FakeTuft(folder / "tuft", model_name=TUFT_MODEL, buckets=1024, samples=True) as fake,
        grpc.insecure_channel(address) as channel,
    ):
        stack = TrainerStack(folder, shared_redis, fake, lease_ttl=LEASE, environment={"TURNLOOM_LOG_LEVEL": "debug"})
        stack.worker()
        stack.supervisor()
        wait_for(
            lambda: any(host.workers and host.models for host in stack.store.hosts.list()), "a worker and its models"
        )
        datasets, jobs = DatasetServiceStub(channel), FineTuningServiceStub(channel)
        made = datasets.CreateDataset(dataset_stream([chat(QUESTION, REPLY)] * 8), timeout=LIMIT).dataset
        ready = Whole(stack, fake, loaded_model, address, datasets, jobs, made.id)
        ready.job = ready.submit(40)
        stack.wait(ready.job, JobState.SUCCEEDED)
        wait_for(lambda: "ADAPTER_RELEASED" in stack.events(ready.job), "the release")
        yield ready
        stack.close()
    server.drain()
