"""The CPU worker: an RQ worker on queue `preprocess` that runs named functions only. Knows no dataset and no template.

The parent imports neither transformers nor datasets: each job runs in a forked horse, which imports what it needs.
Every few seconds the parent looks for tasks whose worker died, here or on any other host, and queues them again.
"""
# names say what is wrong; a suffix would say it twice

from __future__ import annotations

import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Final

import redis
from rq import Queue
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer

from services.preprocess.settings import ApiSettings
from services.preprocess.sources.dispatch import FUNCTION, sweep
from services.store.connection import check_schema, connect, connect_rq
from services.store.dataset_work import DatasetWork
from services.store.datasets import Datasets
from services.store.errors import RedisUnavailable
from services.store.queues import PREPROCESS_QUEUE
from services.store.ticket_jobs import TicketJob, TicketWorker
from services.store.tickets import Tickets

LOG = logging.getLogger("turnloom.worker")
#: What a ticket may name, and nothing else: a queue is no place to send code through.
ALLOWED: Final = frozenset({"services.preprocess.worker_jobs.prepare_model", FUNCTION})
WORKER_TTL: Final = 60  #: seconds after which a silent worker is given up
LOOK_EVERY: Final = 5  #: seconds between looks for lost tasks, at most
RECONNECT_SECONDS: Final = 1.0
PR_SET_PDEATHSIG: Final = 1  #: of prctl(2)


class PreprocessTicket(TicketJob):
    """A ticket as this worker reads it."""

    allowed = ALLOWED
    whose = "the preprocess worker"


class PreprocessWorker(TicketWorker):
    """rq.Worker on exactly one queue: only that one has the hand-over that loses no ticket."""

    job_class = PreprocessTicket

    def __init__(self, connection: redis.Redis, look: Callable[[], None], look_every: float) -> None:
        """Says hello to Redis.

        Args:
            connection: to Redis, for RQ.
            look: finds tasks whose worker died.
            look_every: seconds between two looks.
        """
        queue = Queue(PREPROCESS_QUEUE, connection=connection, serializer=JSONSerializer, job_class=PreprocessTicket)
        self._look = look
        self._look_every = look_every
        self._looked_at = float("-inf")
        self._parent = os.getpid()
        self.stopping = False  #: asked to stop, by a signal
        super().__init__(
            [queue],
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL,
            job_monitoring_interval=max(1, round(look_every)),
            log_job_description=False,  # a description holds arguments
        )

    @property
    def dequeue_timeout(self) -> int:
        """Seconds that an empty queue is waited for."""
        return max(1, round(self._look_every))

    def subscribe(self) -> None:
        """RQ's commands are not wanted: they take a thread of the parent; datasets are cancelled by their record."""

    def unsubscribe(self) -> None:
        """Nothing was subscribed to."""

    def heartbeat(self, timeout: int | None = None, pipeline: redis.client.Pipeline | None = None) -> None:
        """RQ calls this between jobs, on an empty queue, and every few seconds in jobs."""
        super().heartbeat(timeout, pipeline)
        if not self._is_horse and time.monotonic() - self._looked_at >= self._look_every:
            self._looked_at = time.monotonic()
            try:
                self._look()
            except RedisUnavailable as error:
                LOG.warning("not looked for lost tasks: %s", error)

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """RQ calls this while a horse works. Redis may be away: the horse waits for it, so its parent must."""
        try:
            super().maintain_heartbeats(job, execution)
        except redis.RedisError as error:
            LOG.warning("no heartbeat: %s", error)

    def setup_work_horse_signals(self) -> None:
        """In the horse, first of all: it ends with its parent, so that a killed worker leaves nothing behind."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]  # rq has no types here
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._parent:  # the parent died before prctl took hold
            os._exit(1)

    def handle_warm_shutdown_request(self) -> None:
        """On SIGTERM: the job at hand is done first; a second SIGTERM ends it, and its task is begun anew elsewhere."""
        LOG.info("asked to stop")
        self.stopping = True


def work(settings: ApiSettings, burst: bool = False) -> int:
    """Work until SIGTERM (or, with `burst`, until the queue is empty); returns the exit code.

    Waits for a Redis that goes away later. Raises RedisUnavailable and SchemaMismatch at the start.
    """
    client = connect(settings.redis_url)
    check_schema(client)
    datasets, tasks = Datasets(client), DatasetWork(client, settings.shard_lease)
    tickets = Tickets(connect_rq(settings.redis_url, socket_timeout=10.0))
    while True:
        connection = connect_rq(settings.redis_url)
        try:
            worker = PreprocessWorker(
                connection, lambda: sweep(datasets, tasks, tickets), min(LOOK_EVERY, settings.shard_lease)
            )
            worker.work(burst=burst, logging_level=settings.log_level.upper())
            if worker.stopping or burst:
                return 0
            LOG.warning("RQ's worker left its loop; it is begun again")
        except redis.RedisError as error:
            LOG.warning("Redis can't be used (%s); trying again", error)
        time.sleep(RECONNECT_SECONDS)
