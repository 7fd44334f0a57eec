"""The CPU worker: an RQ worker on queue `preprocess` that runs named functions only.

Each job runs in a forked horse, which inherits modules and models that the parent has loaded (preloading).
Every few seconds the parent looks for tasks whose worker died, on any host, and queues them again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import redis
from rq import Queue
from rq.job import Job

from services.preprocess.datasets.sources.dispatch import FUNCTION, begin_no_more, sweep
from services.preprocess.datasets.worker.preloading import Preloaded
from services.preprocess.settings import ApiSettings
from services.store.connection import check_schema, connect, connect_rq
from services.store.dataset_work import DatasetWork
from services.store.datasets import Datasets
from services.store.errors import RedisUnavailable
from services.store.queueing.queues import PREPROCESS_QUEUE
from services.store.queueing.ticket_jobs import TicketJob, TicketWorker, work_until_stopped
from services.store.queueing.tickets import Tickets

LOG = logging.getLogger("turnloom.worker")
#: What a ticket may name, and nothing else: a queue is no place to send code through.
ALLOWED: Final = frozenset(
    {
        "services.preprocess.datasets.worker.tasks.prepare_model",
        "services.preprocess.datasets.worker.tasks.diagnose",
        FUNCTION,
    }
)
LOOK_EVERY: Final = 5  #: seconds between looks for lost tasks, at most


class PreprocessTicket(TicketJob):
    """A ticket as this worker reads it."""

    allowed = ALLOWED
    whose = "the preprocess worker"


class PreprocessWorker(TicketWorker):
    """An RQ worker whose parent looks, between and during tickets, for tasks whose worker died."""

    job_class = PreprocessTicket

    def __init__(
        self, connection: redis.Redis, look: Callable[[], None], look_every: float, preload: Callable[[str], None]
    ) -> None:
        """Register the worker in Redis.

        Args:
            connection: to Redis, for RQ.
            look: finds tasks whose worker died.
            look_every: seconds between two looks.
            preload: loads what the tasks of a dataset need, by its id.
        """
        self._preload = preload
        self._look = look
        self._look_every = look_every
        self._looked_at = float("-inf")
        super().__init__(PREPROCESS_QUEUE, connection, look_every=max(1, round(look_every)))

    @property
    def dequeue_timeout(self) -> int:
        """Return the seconds to wait on an empty queue."""
        return max(1, round(self._look_every))

    def heartbeat(self, timeout: int | None = None, pipeline: redis.client.Pipeline | None = None) -> None:
        """Look for lost tasks; RQ calls this between jobs, on an empty queue, and every few seconds in jobs."""
        super().heartbeat(timeout, pipeline)
        if not self._is_horse and time.monotonic() - self._looked_at >= self._look_every:
            self._looked_at = time.monotonic()
            try:
                self._look()
            except RedisUnavailable as error:
                LOG.warning("not looked for lost tasks: %s", error)

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Load what the horse will need, so that it inherits it; then fork."""
        if job.func_name == FUNCTION:
            self._preload(str(job.kwargs.get("dataset_id")))
        super().fork_work_horse(job, queue)

    def handle_warm_shutdown_request(self) -> None:
        """Finish the current job on SIGTERM.

        A second SIGTERM ends the job, and its task restarts elsewhere.
        """
        LOG.info("asked to stop")
        begin_no_more()
        self.stopping = True


def work(settings: ApiSettings, burst: bool = False) -> int:
    """Work until SIGTERM (or, with `burst`, until the queue is empty), and return the exit code.

    Wait for a Redis that goes away later. Raise RedisUnavailable and SchemaMismatch at the start.
    """
    client = connect(settings.redis_url)
    check_schema(client)
    datasets, tasks = Datasets(client), DatasetWork(client, settings.shard_lease)
    tickets = Tickets(connect_rq(settings.redis_url, socket_timeout=10.0))
    look_every = min(LOOK_EVERY, settings.shard_lease)
    models = Preloaded(settings, datasets)
    models.warm_up()
    work_until_stopped(
        settings.redis_url,
        lambda connection: PreprocessWorker(
            connection, lambda: sweep(datasets, tasks, tickets), look_every, models.for_dataset
        ),
        burst=burst,
        log_level=settings.log_level.upper(),
    )
    return 0
