"""A real API server on a free port, with a small model made on the spot and, where asked for, a real Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from services.preprocess.api.metrics import make_metrics
from services.preprocess.api.server import ApiServer
from services.preprocess.domain.limits import MAX_MESSAGE_BYTES
from services.preprocess.models.registry import Registry, load_entry
from services.preprocess.settings import ApiSettings
from services.store.records import HostRecord, ServedModelRecord
from services.store.store import Store, open_store
from tests.support.api_calls import MODEL, NO_REDIS, TUFT_MODEL, Api, Start, write_model
from turnloom.masks.model import Model
from turnloom.models_file import ModelEntry
from turnloom.v1.datasets_pb2_grpc import DatasetServiceStub
from turnloom.v1.preprocess_pb2_grpc import PreprocessServiceStub
from turnloom.v1.training_pb2_grpc import FineTuningServiceStub


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def loaded_model(model_folder: Path) -> Model:
    """The small model, loaded once: a second of checks that test_model_registry and test_api_process make for real."""
    return load_entry(ModelEntry(name=MODEL, source=str(model_folder)), model_folder)


@pytest.fixture
def start_api(model_folder: Path, loaded_model: Model, tmp_path: Path) -> Iterator[Start]:
    """Starts servers with models loaded; all of them are drained at the end of the test."""
    servers: list[ApiServer] = []
    channels: list[grpc.Channel] = []

    def start(
        redis_url: str = NO_REDIS,
        load: Callable[[ModelEntry, Path], Model] | None = None,
        threads: int = 16,
        idle_seconds: float = 60.0,
        **more: object,
    ) -> Api:
        entry = ModelEntry(name=MODEL, source=str(model_folder), tuft_model_name=TUFT_MODEL)
        registry = Registry([entry], tmp_path / "cache", load or (lambda _entry, _cache: loaded_model))
        metrics = make_metrics()
        settings = ApiSettings(
            address="127.0.0.1:0",
            redis_url=redis_url,
            store_url=str(tmp_path / "store"),
            threads=threads,
            drain_seconds=5,
            idle_seconds=idle_seconds,
            reflection=True,
            **more,  # type: ignore[arg-type]  # fields of ApiSettings
        )
        server = ApiServer(settings, registry, metrics)
        address = server.start()
        servers.append(server)
        assert load is not None or registry.wait(60)
        channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
        channels.append(channel)
        return Api(
            address,
            channel,
            PreprocessServiceStub(channel),
            DatasetServiceStub(channel),
            FineTuningServiceStub(channel),
            metrics,
            registry,
        )

    yield start
    for channel in channels:
        channel.close()
    for server in servers:
        server.drain()


@pytest.fixture
def api(start_api: Start, redis_url: str) -> Api:
    """A server with a model and an empty Redis."""
    return start_api(redis_url)


@pytest.fixture
def store(redis_url: str, tmp_path: Path) -> Iterator[Store]:
    """The same store that the server of this test uses."""
    opened = open_store(redis_url, str(tmp_path / "store"))
    yield opened
    opened.close()


@pytest.fixture
def gpu_host(store: Store) -> HostRecord:
    """A live host that serves the small model up to rank 64."""
    record = HostRecord(name="gpu-a", models=(ServedModelRecord(TUFT_MODEL, 64, 1024),), backend_up=True)
    store.hosts.put(record, ttl=300)
    return record
