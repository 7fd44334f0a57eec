"""Read a ticket and run it in a worker: one function of a short list, called once.

RQ offers more to a client that can write to a queue. It imports any function and calls any function as a callback. It
posts the outcome to any URL, and repeats as often as asked. All of that is removed from a ticket before it is read.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import ClassVar, Final, cast

import redis
from redis.client import Pipeline
from rq import Queue, Worker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker_registration import register

from services.outages import OutageLog
from services.store.connection import connect_rq
from services.store.queueing.workers import RECORD_LIFE

LOG = logging.getLogger("turnloom.worker")
#: Of this process, which works one queue.
OUTAGE: Final = OutageLog(LOG, "Redis can't be used")
#: What RQ reckons with, seconds: a new worker's record lives for 60 more, and a wait on an empty queue takes 15 less.
WORKER_TTL: Final = round(RECORD_LIFE) - 60
RECONNECT_SECONDS: Final = 1.0
RETURN_SECONDS: Final = 5.0  #: after which an idle worker has seen that Redis is back, at most
PING_SECONDS: Final = 10.0  #: that Redis may take for its first answer
PR_SET_PDEATHSIG: Final = 1  #: of prctl(2)


class ForbiddenTicket(Exception):
    """A ticket named a function that is not on the list."""


class TicketFault(Exception):
    """A ticket's function raised an unexpected error; the worker's log has its id."""


class TicketJob(Job):
    """A ticket; each kind of worker lists the allowed functions."""

    allowed: ClassVar[frozenset[str]] = frozenset()  #: dotted names
    whose: ClassVar[str] = ""  #: the worker, for the sentence: "the trainer"

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Read RQ's record without the fields that a ticket does not use."""
        super().restore(raw_data)
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks = []
        self.retries_left = self.repeats_left = None

    @property
    def func(self) -> Callable[..., object]:
        """Return the function to call.

        Raises:
            ForbiddenTicket: before anything is imported.
        """
        if self.func_name not in self.allowed:
            raise ForbiddenTicket(f"{self.func_name} is not a function of {self.whose}; the ticket is refused")
        return cast(Callable[..., object], super().func)

    def perform(self) -> object:
        """Call the function. Redis keeps the error, so only our own sentences go there.

        Raises:
            Exception: one of ours as it is; TicketFault for any other, whose words may quote anything.
        """
        try:
            return super().perform()
        except Exception as error:
            if type(error).__module__.startswith("services."):
                raise error from None
            error_id, kind = secrets.token_hex(6), type(error).__name__
            frames = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in _frames(error)]
            LOG.error("ticket %s: unforeseen %s (error id %s) at %s", self.id, kind, error_id, " < ".join(frames[::-1]))
        raise TicketFault(f"{kind} (error id {error_id}); the log of {self.whose} says where it came from")


def _frames(error: Exception) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)


class TicketWorker(Worker):
    """rq.Worker on exactly one queue, for only that one has the hand-over that loses no ticket.

    It omits RQ's own messages on failed tickets, which hold arguments and whole tracebacks, and RQ's commands.
    """

    job_class = TicketJob
    max_connection_wait_time = RETURN_SECONDS  # RQ's own is a minute, in which an idle host counts as silent

    def __init__(self, queue: str, connection: redis.Redis, *, look_every: int, name: str | None = None) -> None:
        """Register the worker in Redis.

        Args:
            queue: its name.
            connection: to Redis, for RQ.
            look_every: seconds between two heartbeats while a horse works.
            name: of the worker; None: RQ makes one.
        """
        self._parent = os.getpid()
        self.stopping = False  #: asked to stop, by a signal
        super().__init__(
            [Queue(queue, connection=connection, serializer=JSONSerializer, job_class=self.job_class)],
            name=name,
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL,
            job_monitoring_interval=look_every,
            log_job_description=False,  # a description holds arguments
        )

    def subscribe(self) -> None:
        """Skip RQ's commands: they take a thread of the parent, and work is steered by its record."""

    def unsubscribe(self) -> None:
        """Do nothing, since there is no subscription."""

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Give a sign. Its record lives as long in every state, for workers.count tells its age by what is left.

        RQ registers a worker once. One whose name Redis lost meanwhile would work and never count, so it is told again.
        """
        super().heartbeat(round(RECORD_LIFE), pipeline)
        if not self._is_horse:
            register(self, pipeline)
            if pipeline is None:  # else nothing is sent yet
                OUTAGE.went_through()

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Send heartbeats while a horse works, for RQ. During a Redis outage the horse goes on, so its parent must."""
        try:
            super().maintain_heartbeats(job, execution)
            OUTAGE.went_through()
        except redis.RedisError as error:
            OUTAGE.failed(error)

    def set_shutdown_requested_date(self) -> None:
        """Set a note for RQ's tools; Redis may be away."""
        try:
            super().set_shutdown_requested_date()  # type: ignore[no-untyped-call]  # rq has no types here
        except redis.RedisError as error:
            LOG.warning("not noted: %s", error)

    def setup_work_horse_signals(self) -> None:
        """Tie a new horse to its parent first of all, so that a killed worker leaves no horse behind."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]  # as above
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._parent:  # the parent died before prctl took hold
            os._exit(1)

    def handle_exception(self, job: Job, *exc_info: object) -> None:
        """Record that a ticket failed; its result has the sentence."""
        kind = getattr(exc_info[0], "__name__", "")
        said = str(exc_info[1]) if isinstance(exc_info[1], ForbiddenTicket) else ""
        LOG.error("ticket %s failed: %s", job.id, said or kind)


def work_until_stopped(
    redis_url: str, make: Callable[[redis.Redis], TicketWorker], *, burst: bool, log_level: str
) -> None:
    """Work until SIGTERM, or with `burst` until the queue is empty. Waits for a Redis that is away.

    Args:
        redis_url: where the queue is.
        make: the worker, once for each connection.
        burst: end when the queue is empty.
        log_level: of RQ's own lines, as logging names it.
    """
    with suppress(StopRequested):  # a signal that comes as RQ's loop ends is raised where the process is just then
        logging.getLogger("rq.worker").addFilter(_is_news)
        while not _worked(redis_url, make, burst=burst, log_level=log_level):
            time.sleep(RECONNECT_SECONDS)


def _worked(redis_url: str, make: Callable[[redis.Redis], TicketWorker], *, burst: bool, log_level: str) -> bool:
    """Work over one connection; return whether that was all, for the worker was asked to stop or the queue is empty."""
    _leave_on_signals()
    worker: TicketWorker | None = None
    try:
        _ping(redis_url)
        worker = make(connect_rq(redis_url))
        worker.work(burst=burst, logging_level=log_level)
        if worker.stopping or burst:
            return True
        LOG.warning("RQ's worker left its loop; it is begun again")
    except redis.RedisError as error:
        if worker is not None and worker.stopping:  # what failed is RQ's last word to Redis
            LOG.warning("Redis can't be used (%s); leaving all the same", error)
            return True
        OUTAGE.failed(error)
    return False


def _is_news(record: logging.LogRecord) -> bool:
    """Take RQ's line on each try of an idle worker to reach Redis as news of the outage; let others pass."""
    if not str(record.msg).startswith("Worker %s: could not connect to Redis") or not isinstance(record.args, tuple):
        return True
    OUTAGE.failed(record.args[1])
    return False


def _leave_on_signals() -> None:
    """End the process on SIGTERM and SIGINT while no worker listens to them, also where one did before."""

    def leave(number: int, frame: FrameType | None) -> None:
        LOG.info("asked to stop")
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)


def _ping(redis_url: str) -> None:
    """Raise redis.RedisError unless Redis answers in time; a worker's own connection waits for as long as RQ needs."""
    with connect_rq(redis_url, socket_timeout=PING_SECONDS) as connection:
        connection.ping()
