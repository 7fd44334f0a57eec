"""The CPU worker: an RQ worker on queue `preprocess` that runs named functions only. Knows no dataset and no template.

The parent imports neither transformers nor datasets: each job runs in a forked horse, which imports what it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from services.preprocess.settings import ApiSettings
from services.store.connection import check_schema, connect, connect_rq
from services.store.queues import PREPROCESS_QUEUE

#: What a ticket may name, and nothing else: a queue is no place to send code through.
ALLOWED: Final = frozenset({"services.preprocess.worker_jobs.prepare_model"})
WORKER_TTL: Final = 60  #: seconds after which a silent worker is given up


class ForbiddenTicket(Exception):
    """A ticket names a function that is not on the list."""


class TicketJob(Job):
    """A ticket as this worker reads it."""

    @property
    def func(self) -> Callable[..., object]:
        """The function to call.

        Raises:
            ForbiddenTicket: before anything is imported.
        """
        if self.func_name not in ALLOWED:
            raise ForbiddenTicket(f"{self.func_name} is not a function of the preprocess worker; the ticket is refused")
        return cast(Callable[..., object], super().func)


class PreprocessWorker(Worker):
    """rq.Worker on exactly one queue: only that one has the hand-over that loses no ticket."""

    job_class = TicketJob


def work(settings: ApiSettings, burst: bool = False) -> int:
    """Work until SIGTERM (or, with `burst`, until the queue is empty); returns the exit code."""
    check_schema(connect(settings.redis_url))
    connection = connect_rq(settings.redis_url)
    queue = Queue(PREPROCESS_QUEUE, connection=connection, serializer=JSONSerializer, job_class=TicketJob)
    worker = PreprocessWorker(
        [queue],
        connection=connection,
        serializer=JSONSerializer,
        worker_ttl=WORKER_TTL,
        log_job_description=False,  # a description holds arguments
    )
    worker.work(burst=burst, logging_level=settings.log_level.upper())
    return 0
