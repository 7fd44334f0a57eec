"""Answers that are none of TuFT's: of a proxy in front of it, of another program, or broken off."""
# ruff: noqa: N802  # http.server names the methods

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.trainer.errors import BackendError, Code
from services.trainer.tuft_http import TuftHttp
from tests.support.loopback import Handler, Loopback

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: "


@contextmanager
def answering(text: str) -> Iterator[TuftHttp]:
    """A server that says the same to everybody, and hangs up."""

    class Parrot(Handler):
        def do_GET(self) -> None:
            self.wfile.write(text.encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))  # what hangs up on unread bytes resets the connection
            self.do_GET()

    with Loopback(Parrot) as server:
        yield TuftHttp(server.url, "tml-x")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{HEAD}15\r\n\r\n<html>hi</html>", "the answer is not JSON; is TURNLOOM_TUFT_URL that of a TuFT server"),
        (f'{HEAD}50\r\n\r\n{{"supported', "IncompleteRead"),
        ("hello\r\n\r\n", "hello"),
    ],
)
def test_an_answer_that_can_not_be_read_is_an_error_of_the_server(text: str, why: str) -> None:
    with answering(text) as server:
        assert not server.healthy()
        for call in (server.models, server.training_runs, lambda: server.unload("run"), lambda: server.holds("run")):
            with pytest.raises(BackendError, match=why) as refused:
                call()
            assert (refused.value.code, refused.value.retryable) == (Code.SERVER_UNREACHABLE, True)


@pytest.mark.parametrize("body", ["[]", "7", '{"supported_models": "all"}', '{"supported_models": ["a"]}', "null"])
def test_an_answer_of_another_form_names_no_model_and_no_run(body: str) -> None:
    with answering(f"{HEAD}{len(body)}\r\n\r\n{body}") as server:
        assert (server.models(), server.training_runs()) == ((), ())
