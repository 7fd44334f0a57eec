"""The SDK's HTTP client against a server of this process: requests as httpx would send them, answers and errors too."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from services.trainer.connection.sdk_http import SdkHttp


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        seen = {"path": self.path, "headers": dict(self.headers.items()), "body": body.decode()}
        answer = json.dumps(seen).encode()
        self.send_response(404 if self.path == "/gone" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Set-Cookie", "seen=1")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """The address of one that echoes."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    made.daemon_threads = True
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


class Key(httpx.Auth):
    """As the SDK's: the key goes into a header."""

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        request.headers["X-API-Key"] = "tml-1"
        yield request


class Again(httpx.Auth):
    """Sends once more after the first answer."""

    def __init__(self) -> None:
        self.answers: list[int] = []

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        self.answers.append((yield request).status_code)
        request.headers["X-Again"] = "yes"
        self.answers.append((yield request).status_code)


def asked(url: str, auth: httpx.Auth | None = None, *, stream: bool = False, **parts: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with SdkHttp() as client:
            request = client.build_request("POST", url, **parts)
            response = await client.send(request, stream=stream, auth=auth, follow_redirects=True)
            assert response.is_stream_consumed is not stream
            await response.aread()
            return response

    return asyncio.run(run())


@pytest.mark.parametrize("parts", [{"json": {"a": [1, 2]}}, {"content": b"proto"}], ids=["json", "bytes"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_arrives_as_it_was_built(server: str, parts: dict[str, Any], stream: bool) -> None:
    headers = httpx.Headers({"X-Stainless-Retry-Count": "0"})
    found = asked(f"{server}/api/v1/x", Key(), stream=stream, headers=headers, timeout=60.0, **parts)
    seen = found.json()
    assert seen["path"] == "/api/v1/x"
    assert seen["headers"]["x-api-key"] == "tml-1"
    assert seen["headers"]["x-stainless-retry-count"] == "0"
    assert seen["body"] == ('{"a":[1,2]}' if "json" in parts else "proto")


def test_queries_are_sent_and_cookies_are_not_kept(server: str) -> None:
    async def twice() -> list[dict[str, Any]]:
        async with SdkHttp() as client:
            requests = [client.build_request("POST", f"{server}/x", params="a=1&b=2", timeout=60.0) for _ in range(2)]
            return [(await client.send(one)).json() for one in requests]

    first, second = asyncio.run(twice())
    assert first["path"] == second["path"] == "/x?a=1&b=2"
    assert "cookie" not in {name.lower() for name in second["headers"]}


def test_an_authentication_may_ask_again(server: str) -> None:
    auth = Again()
    assert asked(f"{server}/x", auth, timeout=60.0).json()["headers"]["x-again"] == "yes"
    assert auth.answers == [200, 200]


def test_an_error_status_is_raised_by_the_answer_as_the_sdk_expects(server: str) -> None:
    found = asked(f"{server}/gone", timeout=60.0)
    with pytest.raises(httpx.HTTPStatusError):
        found.raise_for_status()


def test_a_server_that_is_not_there_is_a_connection_error(server: str) -> None:
    with pytest.raises(httpx.TransportError):
        asked("http://127.0.0.1:1/x", timeout=60.0)
