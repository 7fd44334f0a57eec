"""One question to one process of this container; exit status 0 means healthy. Knows no records of Turnloom.

    python health.py grpc HOST:PORT [SERVICE]   grpc.health.v1 answers SERVING
    python health.py http URL                   answers 200
    python health.py worker [SECONDS]           an RQ worker of this container gave a sign in the last SECONDS (120)
    python health.py supervisor                 some supervisor holds the lease

Imports stay inside the checks: each image holds the packages of its own check only.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

DEADLINE = 4.0  # seconds, below the timeout of every HEALTHCHECK


def grpc(address: str, service: str = "") -> None:
    """Asks the standard health service, without the credentials that other calls need."""
    from grpc import insecure_channel  # noqa: PLC0415
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # noqa: PLC0415
    from grpc_health.v1.health_pb2_grpc import HealthStub  # noqa: PLC0415

    with insecure_channel(address) as channel:
        answer = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=DEADLINE)
    if answer.status != HealthCheckResponse.SERVING:
        sys.exit(f"{service or 'the server'} is {HealthCheckResponse.ServingStatus.Name(answer.status)}")


def http(url: str) -> None:
    """Any status but 2xx raises."""
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:  # noqa: S310  (the address is ours)
        answer.read(1)


def worker(seconds: str = "120") -> None:
    """RQ's own register: a worker writes its host name, which is the container's, and renews its heartbeat."""
    from redis import Redis  # noqa: PLC0415
    from rq import Worker  # noqa: PLC0415

    connection = Redis.from_url(os.environ["TURNLOOM_REDIS_URL"], socket_timeout=DEADLINE)
    oldest = datetime.now(UTC) - timedelta(seconds=float(seconds))
    for found in Worker.all(connection=connection):
        beat = found.last_heartbeat
        if found.hostname == socket.gethostname() and beat and beat.replace(tzinfo=UTC) >= oldest:
            return
    sys.exit(f"no worker of {socket.gethostname()} sent a heartbeat in the last {seconds} s")


def supervisor() -> None:
    """One of possibly several supervisors holds the lease; the others stand by."""
    from redis import Redis  # noqa: PLC0415

    from services.store.keys import SUPERVISOR  # noqa: PLC0415

    if not Redis.from_url(os.environ["TURNLOOM_REDIS_URL"], socket_timeout=DEADLINE).exists(SUPERVISOR):
        sys.exit("no supervisor holds the lease")


CHECKS: dict[str, Callable[..., None]] = {"grpc": grpc, "http": http, "worker": worker, "supervisor": supervisor}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](*sys.argv[2:])
