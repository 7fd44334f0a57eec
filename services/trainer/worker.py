"""The worker: takes tickets of one queue and forks a horse for each. Its own process stays clean, for it is forked.

It imports rq, redis and settings only. tinker, pyarrow and NVML load inside the horse, which can be thrown away.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from types import FrameType
from typing import Any

import redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from services.store.connection import connect_rq
from services.store.ticket_jobs import TicketJob, TicketWorker
from services.trainer import preemption
from services.trainer.settings import Settings

#: What a ticket may name. Anything else on the queue is refused before it is imported.
ALLOWED = frozenset({"services.trainer.job.run", "services.trainer.diagnose.run"})
WORKER_TTL = 60  #: seconds; RQ blocks for 15 less on an empty queue
PROBE_EVERY = 20.0  #: seconds between probes of the host
PREEMPT_SECONDS = 30  #: in which a horse that has to leave must have saved and requeued its job
RECONNECT_SECONDS = 1.0
PR_SET_PDEATHSIG = 1  #: of prctl(2)

log = logging.getLogger(__name__)


class TrainerTicket(TicketJob):
    """A ticket as this worker reads it."""

    allowed = ALLOWED
    whose = "the trainer"


class TrainerWorker(TicketWorker):
    """rq.Worker on exactly one queue: only that one has the hand-over that loses no ticket."""

    job_class = TrainerTicket

    def __init__(
        self, settings: Settings, connection: redis.Redis, probe: Callable[[], subprocess.Popen[bytes]]
    ) -> None:
        """Says hello to Redis.

        Args:
            settings: of this host.
            connection: to Redis, for RQ.
            probe: starts a short process that writes the host record.
        """
        queue = Queue(settings.queue, connection=connection, serializer=JSONSerializer, job_class=TrainerTicket)
        super().__init__(
            [queue],
            name=f"{settings.host}.{os.getpid()}.{secrets.token_hex(4)}",
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL,
            job_monitoring_interval=5,
            log_job_description=False,  # a description holds arguments
        )
        self._probe = probe
        self._probing: subprocess.Popen[bytes] | None = None
        self._probed_at = float("-inf")
        self._parent = os.getpid()
        self._stop_asked_at: float | None = None
        self.stopping = False  #: asked to stop, by a signal

    @property
    def dequeue_timeout(self) -> int:
        """Seconds that an empty queue is waited for: often enough for the host record to stay alive."""
        return int(PROBE_EVERY)

    def subscribe(self) -> None:
        """RQ's commands are not wanted: they take a thread of the parent, and jobs are steered by their record."""

    def unsubscribe(self) -> None:
        """Nothing was subscribed to."""

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """RQ calls this between jobs and every few seconds in them: the host's own sign of life goes along."""
        super().heartbeat(timeout, pipeline)
        self.probe_host()

    def probe_host(self) -> None:
        """Starts the probe if the last one is old enough and over; waits for nothing."""
        if self._is_horse or (self._probing is not None and self._probing.poll() is None):
            return
        if time.monotonic() - self._probed_at >= PROBE_EVERY:
            self._probed_at = time.monotonic()
            self._probing = self._probe()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """One ticket; afterwards the host is looked at again, for its GPU may have changed hands."""
        super().execute_job(job, queue)
        self._probed_at = float("-inf")

    def maintain_heartbeats(self, job: Job, execution: Any) -> None:
        """RQ calls this while a horse works. Redis may be away: the horse goes on, so its parent must."""
        try:
            super().maintain_heartbeats(job, execution)
        except redis.RedisError as error:
            log.warning("no heartbeat: %s", error)
        if self._stop_asked_at is not None and time.monotonic() - self._stop_asked_at > PREEMPT_SECONDS:
            log.error("the horse did not leave in %d s and is ended", PREEMPT_SECONDS)
            self.kill_horse()

    def set_shutdown_requested_date(self) -> None:
        """A note for RQ's tools; Redis may be away."""
        try:
            super().set_shutdown_requested_date()  # type: ignore[no-untyped-call]  # rq has no types here
        except redis.RedisError as error:
            log.warning("not noted: %s", error)

    def setup_work_horse_signals(self) -> None:
        """In the horse, first of all: it ends with its parent, and hears when it has to leave."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]  # as above
        preemption.listen()
        sys.modules["torch"] = None  # type: ignore[assignment]  # the SDK would load it where it is installed: for nothing
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._parent:  # the parent died before prctl took hold
            os._exit(1)

    def handle_warm_shutdown_request(self) -> None:
        """On SIGTERM: the horse saves, requeues its job and ends. One that hangs is ended; its lease then expires."""
        log.info("asked to stop")
        self.stopping = True
        self._stop_asked_at = time.monotonic()
        if self.horse_pid:
            os.kill(self.horse_pid, preemption.SIGNAL)

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """A second SIGTERM changes nothing: the horse is leaving already."""
        log.info("asked to stop again; the horse is leaving")


def run(settings: Settings, *, burst: bool = False) -> None:
    """Works until SIGTERM, or with `burst` until the queue is empty. Waits for a Redis that is away."""
    while True:
        connection = connect_rq(settings.redis_url)
        try:
            connection.ping()
            worker = TrainerWorker(settings, connection, start_probe)
            worker.probe_host()
            worker.work(burst=burst, logging_level=logging.getLevelName(logging.WARNING))
            if worker.stopping or burst:
                return
            log.warning("RQ's worker left its loop; it is begun again")
        except redis.RedisError as error:
            log.warning("Redis at %s can't be used (%s); trying again", _without_password(settings.redis_url), error)
        time.sleep(RECONNECT_SECONDS)


def start_probe() -> subprocess.Popen[bytes]:
    """The probe as a process of its own: NVML and HTTP stay out of the worker."""
    return subprocess.Popen([sys.executable, "-m", "services.trainer", "probe-host"], stdin=subprocess.DEVNULL)


def _without_password(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}"
