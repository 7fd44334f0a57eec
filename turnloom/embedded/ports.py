"""Choose TCP ports for servers of this machine. Knows no server."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Final

LOWEST: Final = 10_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  #: what this system gives to whoever asks for port 0
ELSEWHERE: Final = 32_768  #: where such ports begin at the earliest on other systems
TRIES: Final = 100


def free_port() -> int:
    """Return a loopback port that is free, and that the system gives to nobody by itself if there is one.

    It stays free while its server starts, which takes TuFT many seconds, and while its server is away.
    """
    beyond = int(RANGE.read_text(encoding="utf-8").split()[0]) if RANGE.exists() else ELSEWHERE
    for _ in range(TRIES if beyond > LOWEST else 0):
        try:
            return _bound(LOWEST + secrets.randbelow(beyond - LOWEST))
        except OSError:
            continue
    return _bound(0)


def _bound(port: int) -> int:
    """Bind a port for a moment; 0: one that the system chooses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        return int(probe.getsockname()[1])
