"""The worker: takes tickets of one queue and forks a horse for each. Forking requires a clean process.

It imports rq, redis and settings only. tinker, pyarrow and NVML load inside the horse, which can be thrown away.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import redis
from rq import Queue
from rq.executions import Execution
from rq.job import Job

from services.store.hosts import HostClaim, release_host
from services.store.queueing.ticket_jobs import TicketJob, TicketWorker, work_until_stopped
from services.trainer.host import identity, preemption
from services.trainer.settings import Settings

#: What a ticket may name. Anything else on the queue is refused before it is imported.
ALLOWED = frozenset({"services.trainer.job.run", "services.trainer.host.diagnose.run", "services.trainer.sample.run"})
LOOK_EVERY = 5  #: seconds between heartbeats, at most
PREEMPT_SECONDS = 30  #: in which a horse that has to leave must have saved and requeued its job

log = logging.getLogger(__name__)


class TrainerTicket(TicketJob):
    """A ticket as this worker reads it."""

    allowed = ALLOWED
    whose = "the trainer"


class TrainerWorker(TicketWorker):
    """RQ worker that keeps the host's record alive between and in tickets, and passes SIGTERM on to the horse."""

    job_class = TrainerTicket

    def __init__(
        self,
        settings: Settings,
        connection: redis.Redis,
        probe: Callable[[], subprocess.Popen[bytes]],
        claim: HostClaim | None = None,
    ) -> None:
        """Register the worker in Redis.

        Args:
            settings: of this host.
            connection: to Redis, for RQ.
            probe: starts a short process that writes the host record.
            claim: of this machine on the host's name; None: it is not known.
        """
        self._host, self._claim = settings.host, claim
        name = f"{settings.host}.{os.getpid()}.{secrets.token_hex(4)}"
        self._probe_every = settings.probe_every
        self._look_every = min(LOOK_EVERY, math.ceil(settings.probe_every))
        super().__init__(settings.queue, connection, look_every=self._look_every, name=name)
        self._probe = probe
        self._probing: subprocess.Popen[bytes] | None = None
        self._probed_at = float("-inf")
        self._stop_asked_at: float | None = None

    @property
    def dequeue_timeout(self) -> int:
        """Return how long to wait on an empty queue, seconds: short enough to keep the host record alive."""
        return self._look_every

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Send the worker's heartbeat and refresh the host record. RQ calls this between jobs and during them."""
        super().heartbeat(timeout, pipeline)
        if not self._is_horse:
            identity.keep(self._claim, self._host, self.connection)
        self.probe_host()

    def register_death(self) -> None:
        """Leave, and give the host's name back: a new folder of this machine may have it at once."""
        super().register_death()  # type: ignore[no-untyped-call]  # rq has no types here
        if self._claim is not None:
            release_host(self.connection, self._claim)

    def probe_host(self) -> None:
        """Start the probe if the last one is old enough and over, without waiting."""
        if self._is_horse or (self._probing is not None and self._probing.poll() is None):
            return
        if time.monotonic() - self._probed_at >= self._probe_every:
            self._probed_at = time.monotonic()
            self._probing = self._probe()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Work one ticket, then probe the host again, for another job may hold its GPU now."""
        super().execute_job(job, queue)
        self._probed_at = float("-inf")

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """End a horse that was told to leave and stays. RQ calls this while a horse works."""
        super().maintain_heartbeats(job, execution)
        if self._stop_asked_at is not None and time.monotonic() - self._stop_asked_at > PREEMPT_SECONDS:
            log.error("the horse did not leave in %d s and is ended", PREEMPT_SECONDS)
            self.kill_horse()

    def setup_work_horse_signals(self) -> None:
        """Set up a new horse first of all: it ends with its parent, and hears when it has to leave."""
        super().setup_work_horse_signals()
        preemption.listen()
        sys.modules["torch"] = None  # type: ignore[assignment]  # the SDK would load it where it is installed: for nothing

    def handle_warm_shutdown_request(self) -> None:
        """Have the horse save, requeue its job and end, on SIGTERM. A hanging one is killed; its lease then expires."""
        log.info("asked to stop")
        self.stopping = True
        self._stop_asked_at = time.monotonic()
        if self.horse_pid:
            os.kill(self.horse_pid, preemption.SIGNAL)

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Ignore a second SIGTERM: the horse is already leaving."""
        log.info("asked to stop again; the horse is leaving")


def run(settings: Settings, *, burst: bool = False) -> None:
    """Work until SIGTERM, or with `burst` until the queue is empty. Waits for a Redis that is away."""

    def make(connection: redis.Redis) -> TrainerWorker:
        worker = TrainerWorker(settings, connection, start_probe, identity.claim(settings, connection))
        worker.probe_host()
        return worker

    work_until_stopped(settings.redis_url, make, burst=burst, log_level="WARNING")


def start_probe() -> subprocess.Popen[bytes]:
    """Start the probe as its own process, which keeps NVML and HTTP out of the worker."""
    return subprocess.Popen([sys.executable, "-m", "services.trainer", "probe-host"], stdin=subprocess.DEVNULL)
