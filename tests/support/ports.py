"""TCP ports for servers of tests. Knows no server."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

LOWEST = 10_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  #: what this system gives to whoever asks for port 0
ELSEWHERE = 32_768  #: where such ports begin at the earliest on other systems


def free_port() -> int:
    """A free port that the system gives to nobody by itself, so that it stays free while its server is away."""
    beyond = int(RANGE.read_text().split()[0]) if RANGE.exists() else ELSEWHERE
    while True:
        port = LOWEST + secrets.randbelow(beyond - LOWEST) if beyond > LOWEST else 0
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
