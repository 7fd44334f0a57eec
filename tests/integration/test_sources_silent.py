"""Sources at servers that take a request and say nothing: one sentence in time, and no file left out in silence."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Callable, Iterator

import fsspec
import pytest

from services.preprocess.datasets.sources.listing import files
from services.preprocess.datasets.sources.opening import opened, size_of
from services.preprocess.domain.source_errors import SourceNotReadable
from services.preprocess.domain.source_location import locate
from services.store.blobs.deadlines import answers_within

pytest.importorskip("s3fs")
from tests.support.s3_server import HASTY, PATIENT, S3, s3_server, wait_for_answers

ROW = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setitem(fsspec.config.conf, "s3", {})
    wait_for_answers(PATIENT)
    with s3_server(monkeypatch) as server:
        for name in ("a", "b"):
            fsspec.filesystem("s3").pipe_file(f"turnloom-test/store/{name}.jsonl", ROW * 100)
        yield server


def listed(url: str) -> tuple[str, ...]:
    roots = (url.rpartition("/")[0],)
    return files(locate(url, roots), roots).data


def content(url: str) -> bytes:
    with opened(url) as file:
        return file.read()


@pytest.mark.parametrize(
    ("mode", "url", "act"),
    [
        *(
            (mode, url, act)
            for mode in ("mute", "deaf")
            for act, url in [(listed, "*.jsonl"), (listed, ""), (content, "a.jsonl"), (size_of, "a.jsonl")]
        ),
        *(("stopped", url, act) for act, url in [(content, "a.jsonl")]),
    ],
)
def test_a_bucket_that_falls_silent_is_named(s3: S3, mode: str, url: str, act: Callable[[str], object]) -> None:
    place = f"{s3.url}/{url}".rstrip("/")
    assert act(place)
    wait_for_answers(HASTY)
    s3.door.mode = mode
    silent = pytest.raises(SourceNotReadable, match=r"s3://turnloom-test/store\S* can't be read: .+")
    with silent, answers_within(2.0):
        act(place)


def test_a_listing_needs_no_request_for_each_file(s3: S3) -> None:
    before = len(s3.door.requests)
    assert listed(f"{s3.url}/*.jsonl") == (f"{s3.url}/a.jsonl", f"{s3.url}/b.jsonl")
    asked = [path for method, path in s3.door.requests[before:] if method == "HEAD"]
    assert not [path for path in asked if path.endswith(("/a.jsonl", "/b.jsonl"))]


class Halving(http.server.BaseHTTPRequestHandler):
    """Promises a file and stops in the middle of it."""

    stop = threading.Event()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(ROW) * 100))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(ROW * 50)
        self.stop.wait(60)


@pytest.fixture
def quick_web(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients that wait a second for a web server."""
    monkeypatch.setattr("services.store.blobs.web.READ_SECONDS", 1.0)
    fsspec.filesystem("http").clear_instance_cache()
    yield
    fsspec.filesystem("http").clear_instance_cache()


@pytest.mark.usefixtures("quick_web")
def test_a_web_server_that_stops_in_the_middle_is_named() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Halving) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(SourceNotReadable, match=r"a\.jsonl can't be read: .+"):
                content(f"http://127.0.0.1:{server.server_address[1]}/a.jsonl")
        finally:
            Halving.stop.set()
            server.shutdown()


@pytest.mark.usefixtures("quick_web")
@pytest.mark.parametrize("act", [content, size_of])
def test_a_web_server_that_never_answers_is_named(act: Callable[[str], object]) -> None:
    named = pytest.raises(SourceNotReadable, match=r"a\.jsonl can't be read: .+")
    with socket.create_server(("127.0.0.1", 0)) as silent, named:  # the kernel connects, and nobody reads
        act(f"http://127.0.0.1:{silent.getsockname()[1]}/a.jsonl")
