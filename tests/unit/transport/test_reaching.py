from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.support import certificates
from turnloom.transport import handshake, reaching
from turnloom.transport.reaching import Step, steps


@pytest.fixture(autouse=True)
def a_look_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds are few for a server in a thread of a busy process."""
    monkeypatch.setattr(handshake, "SECONDS", 60.0)


def last(address: str) -> Step:
    """The step that fails; those before it are well and have nothing to hint at."""
    *before, failing = steps(address, None)
    assert not any(step.wrong or step.hint for step in before)
    assert failing.wrong
    assert failing.hint
    return failing


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":1", "localhost:0", "h:65536", "http://localhost:1"])
def test_an_address_of_another_form_is_refused_before_anything_is_asked(address: str) -> None:
    step = last(address)
    assert (step.name, step.sentence) == ("address", f"{address!r} is not HOST:PORT.")
    assert "without http://" in step.hint


def test_a_name_that_means_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_words: object, **_more: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(reaching.socket, "getaddrinfo", unknown)
    step = last("api.invalid:50051")
    assert (step.name, step.sentence) == (
        "name",
        "The name api.invalid means nothing here: Name or service not known.",
    )


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(reaching, "SECONDS", 0.05)
    monkeypatch.setattr(reaching.socket, "getaddrinfo", lambda *_words, **_more: go_on.wait(60))
    try:
        assert "no answer within 0.05 s" in last("api.invalid:50051").sentence
    finally:
        go_on.set()


def test_a_closed_port_and_a_stranger_behind_an_open_one_are_told_apart() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert last(address).name == "port"
        server.listen()
        threading.Thread(target=_hang_up, args=(server, 2), daemon=True).start()
        step = last(address)
        assert (step.name, step.sentence) == (
            "tls",
            f"Something listens at {address} and does not speak Turnloom's protocol.",
        )


def test_a_server_with_tls_that_is_called_without_says_so(tmp_path: Path) -> None:
    pair = certificates.authority(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.set_alpn_protocols(["h2"])
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=_shake_hands, args=(server, context), daemon=True).start()
        step = last(f"127.0.0.1:{server.getsockname()[1]}")
    assert step.name == "tls"
    assert "speaks TLS, and was called without" in step.sentence
    assert "--tls" in step.hint


def _hang_up(server: socket.socket, times: int) -> None:
    for _ in range(times):
        server.accept()[0].close()


def _shake_hands(server: socket.socket, context: ssl.SSLContext) -> None:
    server.accept()[0].close()  # the look at the port
    connection = server.accept()[0]
    with connection, context.wrap_socket(connection, server_side=True) as secured:
        secured.recv(1)
