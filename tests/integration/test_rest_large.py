"""An upload of 512 MB: the service's memory stays where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.api_calls import Start
from tests.support.rest_server import wait
from turnloom.embedded.stack import REPOSITORY

SIZE = 511_000_000  #: bytes, below OpenAI's 512 MB with the form around it
LINE = json.dumps(
    {"messages": [{"role": "user", "content": "question " * 400}, {"role": "assistant", "content": "answer " * 400}]}
).encode()
MOST = 64 << 20  #: bytes that the service may grow by: buffers, not the file


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_half_a_gigabyte_is_taken_in_flat_memory(start_api: Start, tmp_path: Path) -> None:
    api, port_file = start_api(), tmp_path / "rest.json"
    command = [sys.executable, "-m", "services.rest", "--address", "127.0.0.1:0", "--port-file", str(port_file)]
    settings = {"TURNLOOM_REST_API": api.address, "TURNLOOM_REST_FILES_URL": str(tmp_path / "files")}
    process = subprocess.Popen(command, cwd=REPOSITORY, env={"PATH": "/usr/bin:/bin", **settings})
    try:
        wait(port_file.is_file, "the service listens")
        url = f"http://{json.loads(port_file.read_text())['address']}/v1/files"
        small = httpx.post(url, files={"file": ("a.jsonl", LINE)}, data={"purpose": "fine-tune"}, timeout=60)
        assert small.status_code == 200, small.text
        before = psutil.Process(process.pid).memory_info().rss
        peaks = [before]
        answer = httpx.post(
            url,
            headers={"Content-Type": "multipart/form-data; boundary=b"},
            content=body(lambda: peaks.append(psutil.Process(process.pid).memory_info().rss)),
            timeout=600,
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["bytes"] > 0.99 * SIZE
        assert max(peaks) - before < MOST, f"it grew by {(max(peaks) - before) >> 20} MiB"
        identity = answer.json()["id"]
        with httpx.stream("GET", f"{url}/{identity}/content", timeout=600) as content:
            assert sum(map(len, content.iter_bytes())) == answer.json()["bytes"]
        assert psutil.Process(process.pid).memory_info().rss - before < MOST
    finally:
        process.terminate()
        assert process.wait(60) in (0, -15)


def body(look) -> Iterator[bytes]:  # called now and then
    """A form with one file, a megabyte at a time."""
    yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="large.jsonl"\r\n\r\n'
    piece = (LINE + b"\n") * (1_000_000 // len(LINE))
    for count in range(SIZE // len(piece)):
        yield piece
        if count % 20 == 0:
            look()
    yield b"\r\n--b--\r\n"
