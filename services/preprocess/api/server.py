"""The gRPC server, from settings to an answering port, and back down without losing a call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.outages import OutageLog
from services.preprocess.api import dataset_service, preprocess_service, training_service
from services.preprocess.api.addresses import taken
from services.preprocess.api.auth.bearer_tokens import TokenBook
from services.preprocess.api.auth.rate_limit import Rates
from services.preprocess.api.auth.tls import server_credentials, tls_files
from services.preprocess.api.backing import Backing
from services.preprocess.api.guard import CallLimits, Guard
from services.preprocess.api.metrics import ApiMetrics
from services.preprocess.api.pools import CountedPool
from services.preprocess.api.rpc import Rpc, RpcLimits
from services.preprocess.api.runner import Runner
from services.preprocess.api.work import ByteBudget
from services.preprocess.domain import limits
from services.preprocess.models.registry import Registry
from services.preprocess.settings import ApiSettings
from services.store.errors import StoreError
from services.store.store import open_store
from turnloom.v1 import datasets_pb2, preprocess_pb2, training_pb2
from turnloom.v1.datasets_pb2_grpc import add_DatasetServiceServicer_to_server
from turnloom.v1.preprocess_pb2_grpc import add_PreprocessServiceServicer_to_server
from turnloom.v1.training_pb2_grpc import add_FineTuningServiceServicer_to_server

LOG = logging.getLogger("turnloom.api")
STATELESS: Final = f"turnloom.v1.{preprocess_service.NAME}"
BACKED: Final = (f"turnloom.v1.{dataset_service.NAME}", f"turnloom.v1.{training_service.NAME}")
REDIS_SECONDS: Final = 5.0  #: that Redis may take for one answer, so that callers hear of an outage within 10
LAST_ANSWERS_SECONDS: Final = 1.0  #: in which the answers of ended calls leave the process
HEALTH_SECONDS: Final = 5.0  #: between looks at Redis
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
OPTIONS: Final = (
    ("grpc.max_receive_message_length", limits.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),  # frees a vanished client's thread after 40 s
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class ApiServer:
    """A running API; a context manager that drains at its end."""

    def __init__(
        self,
        settings: ApiSettings,
        registry: Registry,
        metrics: ApiMetrics,
        *,
        shared: bool = False,
        loaded: Callable[[], None] = lambda: None,
    ) -> None:
        """Build what answers; nothing listens yet.

        Args:
            settings: of this process.
            registry: models, not yet loaded.
            metrics: where calls are counted.
            shared: the port is shared with other processes of the kind.
            loaded: called once, when the models are loaded.
        """
        self._shared = shared
        self._loaded = loaded
        self._settings = settings
        self._registry = registry
        self._backing = Backing(
            lambda: open_store(
                settings.redis_url, settings.store_url, socket_timeout=REDIS_SECONDS, quota=settings.quota_queued
            )
        )
        self._tls = tls_files(settings)
        book = None if settings.tokens is None else TokenBook(settings.tokens)
        rates = Rates(settings.rate if book else 0.0, at_least=limits.MAX_BATCH)
        self._rpc = Rpc(
            metrics.rpc,
            rates,
            RpcLimits(settings.max_streams, settings.streams_per_token, settings.idle_seconds, settings.call_seconds),
        )
        self._ended = threading.Event()
        self._looking = threading.Lock()
        self._outage = OutageLog(LOG, "Redis does not answer")
        self._pool = CountedPool(settings.threads)
        budget = ByteBudget(settings.work_bytes, metrics.rpc.bytes_in_work.set)
        call_limits = CallLimits(settings.max_calls, settings.calls_per_token, budget)
        self._guard = Guard(self._rpc, book, self._pool, call_limits)
        self._server = grpc.server(
            self._pool,
            interceptors=[self._guard],
            # Unshared, a taken port is refused instead of shared with a forgotten server.
            options=(*OPTIONS, ("grpc.so_reuseport", int(shared))),
            # The guard refuses first, with a sentence and a time to wait; this bounds concurrent refusals.
            maximum_concurrent_rpcs=16 * settings.max_calls,
        )
        runner = Runner(registry, metrics.preprocess)
        add_PreprocessServiceServicer_to_server(
            preprocess_service.PreprocessService(self._rpc, registry, runner, settings), self._server
        )
        add_DatasetServiceServicer_to_server(
            dataset_service.DatasetService(self._rpc, self._backing, runner, settings), self._server
        )
        add_FineTuningServiceServicer_to_server(
            training_service.FineTuningService(self._rpc, self._backing, registry, settings.store_url), self._server
        )
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for name in (STATELESS, *BACKED):
            self._health.set(name, NOT_SERVING)
        if settings.reflection:
            pools = (preprocess_pb2, datasets_pb2, training_pb2)
            names = [service.full_name for pool in pools for service in pool.DESCRIPTOR.services_by_name.values()]
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME, health.SERVICE_NAME], self._server)

    def start(self) -> str:
        """Listen, then load models and check health in threads. Return host:port as bound.

        With a shared port models are loaded first: callers can't choose which process they reach.

        Raises:
            BadSetting: the address can't be listened on.
        """
        host = self._settings.address.rpartition(":")[0]
        loading = threading.Thread(target=self._load, name="load-models", daemon=True)
        if self._shared:
            loading.start()
            loading.join()
        try:
            port = self._listen()
        except RuntimeError as error:
            raise taken(self._settings.address) from error
        self._server.start()
        if not self._shared:
            loading.start()
        threading.Thread(target=self._watch_health, name="health", daemon=True).start()
        return f"{host}:{port}"

    def _listen(self) -> int:
        """Bind the port, with TLS where there are files for it, and return it. Warn about an unprotected one."""
        if self._settings.tokens is None:
            LOG.warning(
                "TURNLOOM_TOKENS is not set: whoever reaches this address may do everything",
                extra={"address": self._settings.address},
            )
        elif self._tls is None:
            LOG.warning(
                "TURNLOOM_TLS_CERT is not set: tokens and conversations travel unencrypted",
                extra={"address": self._settings.address},
            )
        if self._tls is None:
            return int(self._server.add_insecure_port(self._settings.address))
        return int(self._server.add_secure_port(self._settings.address, server_credentials(self._tls)))

    def _load(self) -> None:
        self._registry.load()
        self._loaded()
        if self._registry.complete and not self._rpc.draining:
            self._health.set(STATELESS, SERVING)
        self._look_at_redis()

    def _watch_health(self) -> None:
        while not self._ended.wait(HEALTH_SECONDS):
            self._look_at_redis()

    def _look_at_redis(self) -> None:
        """Update health: datasets and jobs are served while models are loaded and Redis answers."""
        with self._looking:
            if not self._ended.is_set():
                self._set_backed_health()

    def _set_backed_health(self) -> None:
        try:
            self._backing.store().redis.ping()
            healthy = self._registry.complete
            self._outage.went_through()
        except StoreError as error:
            self._outage.failed(error)
            healthy = False
        for name in BACKED:
            self._health.set(name, SERVING if healthy else NOT_SERVING)

    def drain(self) -> None:
        """Report NOT_SERVING, refuse new calls, let running calls end, then stop.

        Calls that still run after drain_seconds are cancelled. The port stays open until then, so that new calls hear
        at once that the server drains. gRPC's own stop can leave a call of its first moments unanswered until the
        caller's deadline. Or it answers CANCELLED, which no client retries.
        """
        self._health.enter_graceful_shutdown()
        self._ended.set()
        self._rpc.drain(self._settings.drain_seconds)
        grace = min(self._settings.drain_seconds, LAST_ANSWERS_SECONDS)
        self._server.stop(grace).wait(grace + LAST_ANSWERS_SECONDS)  # a handler that never ends must not hold it
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._guard.close()
        with self._looking:  # a Redis check in progress ends with its own deadline
            self._backing.close()

    @property
    def busy(self) -> int:
        """Return the number of handlers that have not ended."""
        return self._guard.busy

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.drain()
