"""An S3 API on loopback: moto's server, behind a door that a test closes in the ways in which stores fail."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from moto.server import ThreadedMotoServer

import services.store.blobs.deadlines  # noqa: F401  # s3:// is opened as the store opens it

KEY = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
REFUSALS = {
    "full": (507, "QuotaExceeded", "The bucket has no room"),
    "wrong key": (403, "InvalidAccessKeyId", "The key is not known"),
    "broken": (500, "InternalError", "We encountered an internal error"),
}
SILENCE = 600.0  #: seconds; longer than any deadline of the store
PATIENT, HASTY = 60.0, 1.0  #: seconds; for `wait_for_answers`
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Door(ThreadingHTTPServer):
    """Passes requests on, or does what `mode` says: "", a key of REFUSALS, or one of these.

    "cut": half of every body, then the end. "stopped": half of every body, then silence.
    "mute": takes a request and says nothing, but for the `100 Continue` of two proxies. "deaf": not even that.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.behind = port
        self.mode = ""
        self.opened = threading.Event()  # ends what is mute
        self.requests: list[tuple[str, str]] = []


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_one(self) -> None:
        mode = self.server.mode
        self.server.requests.append((self.command, self.path))
        if mode == "deaf":
            self._say_nothing()
            return
        body = self._body()
        if mode == "mute":
            if self.headers.get("Expect"):
                self.handle_expect_100()
            self._say_nothing()
            return
        writes = self.command in ("PUT", "POST")
        if mode in REFUSALS and (writes or mode != "full"):
            status, code, message = REFUSALS[mode]
            text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
            self._answer(status, {"Content-Type": "application/xml"}, text)
            return
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)
        behind.request(self.command, self.path, body, dict(self.headers))
        answer = behind.getresponse()
        found = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
        length = answer.getheader("Content-Length")
        behind.close()
        halved = self.command == "GET" and len(found) > 1 and "list-type" not in self.path
        cut = mode in ("cut", "stopped") and halved
        self._answer(answer.status, headers, found[: len(found) // 2] if cut else found, length or str(len(found)))
        if cut and mode == "stopped":
            self._say_nothing()
        elif cut:
            self.close_connection = True

    def handle_expect_100(self) -> bool:
        return True if self.server.mode == "deaf" else super().handle_expect_100()

    def _say_nothing(self) -> None:
        self.server.opened.wait(SILENCE)
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            del self.headers["Transfer-Encoding"]
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, headers: dict[str, str], body: bytes, length: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class S3:
    """One bucket and the door before it."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.endpoint = f"http://127.0.0.1:{door.server_address[1]}"
        self.url = "s3://turnloom-test/store"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which another process finds it."""
        return {**KEY, "AWS_ENDPOINT_URL": self.endpoint}

    def names(self) -> list[str]:
        """Everything that is in the bucket."""
        mode, self.door.mode = self.door.mode, ""
        try:
            return sorted(fsspec.filesystem("s3").find("turnloom-test"))
        finally:
            self.door.mode = mode

    def open_uploads(self) -> int:
        """How many uploads in parts are neither complete nor given up."""
        behind = http.client.HTTPConnection("127.0.0.1", self.door.behind, timeout=30)
        behind.request("GET", "/turnloom-test?uploads")
        found = behind.getresponse().read().count(b"<Upload>")
        behind.close()
        return found


def wait_for_answers(seconds: float) -> None:
    """Have clients that are made from now on wait so long for the next piece of an answer.

    A test puts fsspec's settings back (`monkeypatch.setitem(fsspec.config.conf, "s3", {})` before). It hurries clients
    only once the server is silent: a busy machine may take more than a second to answer.
    """
    limits = {"connect_timeout": 10, "read_timeout": seconds, "retries": {"max_attempts": 1}}
    fsspec.config.conf["s3"] = {"config_kwargs": limits}
    fsspec.filesystem("s3").clear_instance_cache()


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A bucket of its own; this process finds it as others do, by the environment."""
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    door = Door(moto.get_host_and_port()[1])
    thread = threading.Thread(target=door.serve_forever, daemon=True)
    thread.start()
    s3 = S3(door)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    try:
        behind = http.client.HTTPConnection("127.0.0.1", door.behind, timeout=30)
        behind.request("POST", "/moto-api/reset")
        behind.getresponse().read()
        behind.request("PUT", "/turnloom-test", headers={"Host": f"127.0.0.1:{door.behind}"})
        assert behind.getresponse().status == 200
        behind.close()
        fsspec.filesystem("s3").clear_instance_cache()
        yield s3
    finally:
        door.opened.set()
        fsspec.filesystem("s3").clear_instance_cache()
        door.shutdown()
        door.server_close()
        thread.join(10)
        moto.stop()
