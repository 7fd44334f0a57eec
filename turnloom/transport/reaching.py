"""Find why an address can't be reached: its form, name, port or TLS, in the order in which they fail."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TimedOut
from dataclasses import dataclass
from typing import Final

from turnloom.transport.calls import WRITE_ADDRESS, Tls, host_and_port
from turnloom.transport.handshake import with_tls, without_tls

SECONDS: Final = 5.0  #: for the name, and again for the port


@dataclass(frozen=True, slots=True)
class Step:
    """One step on the way to a server."""

    name: str  #: "address", "name", "port", "tls"
    wrong: bool
    sentence: str
    hint: str = ""  #: what to do; empty where nothing is wrong


def steps(address: str, tls: Tls | None) -> Iterator[Step]:
    """Yield the steps up to the first that fails; sends nothing but a TLS hello where the port answers."""
    parts = host_and_port(address)
    if parts is None:
        yield Step("address", True, f"{address!r} is not HOST:PORT.", WRITE_ADDRESS)
        return
    host, port = parts
    yield Step("address", False, f"{host}, port {port}.")
    found, why = _resolved(host, port)
    if not found:
        hint = "Look at the spelling, or give the number of the address."
        yield Step("name", True, f"The name {host} means nothing here: {why}.", hint)
        return
    yield Step("name", False, f"{host} is {', '.join(found)}.")
    try:
        with socket.create_connection((host, int(port)), timeout=SECONDS):
            pass
    except TimeoutError:
        hint = "A firewall that drops, or the wrong host. Is the port open from here?"
        yield Step("port", True, f"Port {port} of {host} does not answer within {SECONDS:g} s.", hint)
        return
    except OSError as error:
        hint = "Start the server there (`turnloom up`, or python -m services.preprocess), or correct the port."
        yield Step("port", True, f"Nobody listens at port {port} of {host}: {error.strerror or error}.", hint)
        return
    yield Step("port", False, f"Port {port} of {host} is open.")
    wrong = with_tls(address, tls.ca, tls.certificate, tls.key) if tls else without_tls(address)
    if wrong is not None:
        yield Step("tls", True, wrong.sentence, wrong.hint)
        return
    hint = "See whose port it is, and the log of the Turnloom API."
    yield Step("tls", True, f"Something listens at {address} and does not speak Turnloom's protocol.", hint)


def _resolved(host: str, port: int) -> tuple[list[str], str]:
    """Return the addresses of a host name, and the reason if there are none."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="name")
    try:
        found = pool.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM).result(SECONDS)
    except TimedOut:
        return [], f"no answer within {SECONDS:g} s"
    except OSError as error:
        return [], str(error.strerror or error)
    finally:
        pool.shutdown(wait=False)  # a resolver has no deadline of its own
    return sorted({str(one[4][0]) for one in found}), ""
