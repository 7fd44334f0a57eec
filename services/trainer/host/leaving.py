"""Ask the workers of this container to leave, and wait until they have. Kubernetes runs this before it stops a pod."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from contextlib import closing, suppress
from pathlib import Path

import redis
from rq import Worker

from services.store.connection import connect_rq
from services.trainer.settings import Settings

REDIS_SECONDS = 5.0  #: for one answer of Redis
LEAVE_SECONDS = 270.0  #: that saving may take, below the 5 minutes that pods and containers are given

log = logging.getLogger(__name__)


def run(settings: Settings) -> bool:
    """Send SIGTERM to each worker and wait for its end; return whether all of them ended in time."""
    try:
        with closing(connect_rq(settings.redis_url, REDIS_SECONDS)) as connection:
            found = Worker.all(connection=connection)
    except redis.RedisError as error:
        log.warning("Redis doesn't say which workers are here (%s); SIGTERM tells them", error)
        return False
    pids = [one.pid for one in found if one.hostname == socket.gethostname() and one.pid and _is_ours(one.pid)]
    end = time.monotonic() + LEAVE_SECONDS
    left = [_left(process, end) for process in _told(pids)]
    return all(left)


def _is_ours(pid: int) -> bool:
    """Return whether a process is a trainer: the register may name a killed worker, and its pid another program."""
    try:
        return b"services.trainer" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _told(pids: list[int]) -> list[int]:
    """Send SIGTERM to these processes; return descriptors of those that exist."""
    told = []
    for pid in pids:
        with suppress(ProcessLookupError):
            told.append(os.pidfd_open(pid))
            signal.pidfd_send_signal(told[-1], signal.SIGTERM)
    return told


def _left(process: int, end: float) -> bool:
    """Wait until a process has ended, or `end` (monotonic seconds) has come."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    left = bool(poll.poll(max(0.0, end - time.monotonic()) * 1000))
    os.close(process)
    if not left:
        log.error("a worker did not leave in %g s; its job goes on from its last checkpoint", LEAVE_SECONDS)
    return left
