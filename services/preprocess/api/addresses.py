"""Ports before a server listens on them: whether one is free, and one kept for several processes. Imports no gRPC."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from services.variables import BadSetting


def taken(address: str) -> BadSetting:
    """Return the error for an address of gRPC that can't be listened on."""
    return BadSetting(f"TURNLOOM_ADDRESS: can't listen on {address}; give one that is free.")


@contextmanager
def kept_port(address: str) -> Iterator[str]:
    """Keep a port that processes of this user may share, until they listen; yield host:port.

    Args:
        address: host:port; port 0: a free one.

    Raises:
        BadSetting: somebody listens there, shared or not.
    """
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as alone:  # unshared, so that a forgotten server's port is refused
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(place)
            alone.listen()
            number = alone.getsockname()[1]
        kept = socket.socket(family, kind, protocol)
    except OSError as error:
        raise taken(address) from error
    with kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            kept.bind((place[0], number, *place[2:]))
        except OSError as error:
            raise taken(address) from error
        yield f"{host}:{number}"
