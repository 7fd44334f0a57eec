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
import ssl
import sys
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpc import Channel

DEADLINE = 4.0  # seconds, below the timeout of every HEALTHCHECK


def grpc(address: str, service: str = "") -> None:
    """Asks the standard health service, without the token that other calls need.

    With mTLS a container holds no client's certificate: there its metrics must be served, which says that it lives.
    """
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # noqa: PLC0415
    from grpc_health.v1.health_pb2_grpc import HealthStub  # noqa: PLC0415

    if os.environ.get("TURNLOOM_TLS_CLIENT_CA"):
        http("http://127.0.0.1:9464/metrics")
        return
    with channel_to(address, os.environ.get("TURNLOOM_TLS_CERT")) as channel:
        answer = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=DEADLINE)
    if answer.status != HealthCheckResponse.SERVING:
        sys.exit(f"{service or 'the server'} is {HealthCheckResponse.ServingStatus.Name(answer.status)}")


def channel_to(address: str, certificate: str | None) -> Channel:
    """Plain text, or TLS that trusts exactly the server's own certificate and goes by the first name in it."""
    from grpc import insecure_channel, secure_channel, ssl_channel_credentials  # noqa: PLC0415

    if not certificate:
        return insecure_channel(address)
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False  # certificates name the host as clients call it, never 127.0.0.1
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), DEADLINE) as plain, context.wrap_socket(plain) as encrypted:
        names = (encrypted.getpeercert() or {}).get("subjectAltName", ())
    name = str(names[0][1]).replace("*", "health") if names else host
    credentials = ssl_channel_credentials(Path(certificate).read_bytes())
    return secure_channel(address, credentials, options=[("grpc.ssl_target_name_override", name)])


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
