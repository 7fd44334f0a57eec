"""Run templates sent by clients in worker processes that can be killed.

Workers are started by exec, never by fork alone: the server has threads. One spare is kept warm, so that ending a
worker costs the next request nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import TemplateLimit
from turnloom.masks.domain.options import Options
from turnloom.masks.domain.rendered_text import View
from turnloom.masks.sandbox.frames import HEADER, error_from, frame, options_data, view_from

_ROOT: Final = Path(__file__).parents[2]
#: Formats whose last stop is remembered.
REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request to a client's template may use."""

    seconds: float = 4.0  #: wall time, after which the worker is killed
    memory_bytes: int = 1 << 30  #: address space of a worker
    answer_bytes: int = 64 << 20  #: longest answer that is read
    start_seconds: float = 30.0  #: wall time for a worker to start
    workers: int = 2  #: requests at a time
    pause_seconds: float = 60.0  #: in which a template that was stopped is not tried again


class _WorkerLost(Exception):  # never leaves this module
    """The worker was too slow, wrote too much, or ended."""


class _Worker:
    """One process and its pipes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.formats: set[str] = set()
        self._ready = False
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "turnloom.masks.sandbox.worker",
                str(limits.memory_bytes),
                str(math.ceil(limits.seconds) + 1),  # later than the wall clock, whose sentence says more
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=_ROOT,
            env={"PYTHONPATH": str(_ROOT), "PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            # No session of its own: Linux gives each session the same share, so that `nice` would mean nothing.
            process_group=0,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: bytes) -> dict[str, Any]:
        """Send one request, and return its answer.

        Raises:
            _WorkerLost: with a sentence that ends "the chat template ...".
        """
        if not self._ready:
            self._read(time.monotonic() + self._limits.start_seconds)
            self._ready = True
        deadline = time.monotonic() + self._limits.seconds
        self._write(request, deadline)
        return self._read(deadline)

    def _write(self, data: bytes, deadline: float) -> None:
        left = memoryview(data)
        while left:
            self._wait(self._stdin, selectors.EVENT_WRITE, deadline)
            try:
                left = left[os.write(self._stdin, left) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise _WorkerLost("ended its process") from error

    def _read(self, deadline: float) -> dict[str, Any]:
        (length,) = HEADER.unpack(self._bytes(HEADER.size, deadline))
        if length > self._limits.answer_bytes:
            raise _WorkerLost(f"prints more than {self._limits.answer_bytes} bytes")
        answer: dict[str, Any] = json.loads(self._bytes(length, deadline))
        return answer

    def _bytes(self, count: int, deadline: float) -> bytes:
        chunks: list[bytes] = []
        while count:
            self._wait(self._stdout, selectors.EVENT_READ, deadline)
            try:
                chunk = os.read(self._stdout, min(count, 1 << 20))
            except BlockingIOError:
                continue
            if not chunk:
                raise _WorkerLost("used more CPU time or memory than the sandbox allows, and its process was ended")
            chunks.append(chunk)
            count -= len(chunk)
        return b"".join(chunks)

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise _WorkerLost(f"took longer than {self._limits.seconds:g} s")

    def end(self) -> None:
        """Kill and reap the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Sandbox:
    """A few workers for templates of clients; safe to use from many threads. Close it when done."""

    def __init__(self, limits: Limits | None = None) -> None:
        """Start the spare; the rest start when needed."""
        self._limits = limits or Limits()
        self._slots = threading.BoundedSemaphore(self._limits.workers)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = [_Worker(self._limits)]
        self._stopped: BoundedCache[str, tuple[float, str]] = BoundedCache(REMEMBERED)  #: when and why, by format
        self._closed = False

    def render_views(
        self,
        source: str,
        conversation: Conversation,
        options: Options,
        special_tokens: Mapping[str, str],
        control_tokens: Mapping[str, bool],
        trained: Collection[int] | None = None,
    ) -> list[View]:
        """Run `views.render_views` with a client's template, in a worker.

        Raises:
            TemplateLimit: the template used more than `Limits` allow, or all workers stayed busy for that long.
            PreprocessError: what render_views raises.
        """
        definition = {"source": source, "special_tokens": dict(special_tokens), "control_tokens": dict(control_tokens)}
        key = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()
        request = {
            "format": key,
            "define": None,
            "messages": list(conversation.messages),
            "tools": conversation.tools,
            "options": options_data(options),
            "trained": None if trained is None else sorted(trained),
        }
        self._refuse_stopped(key)
        answer = self._asked(request, definition)
        if "error" in answer:
            raise error_from(answer["error"])
        return [view_from(view) for view in answer["views"]]

    def _refuse_stopped(self, key: str) -> None:
        """Refuse a template that was stopped a short time ago: 512 conversations would hold a worker for an hour.

        Raises:
            TemplateLimit
        """
        at, reason = self._stopped.get(key) or (-math.inf, "")
        left = at + self._limits.pause_seconds - time.monotonic()
        if left > 0:
            raise TemplateLimit(
                f"the chat template {reason} on an earlier conversation; it is tried again in {math.ceil(left)} s"
            )

    def close(self) -> None:
        """End all workers; requests in progress end theirs."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()

    def _asked(self, request: dict[str, Any], definition: dict[str, Any]) -> dict[str, Any]:
        if not self._slots.acquire(timeout=self._limits.seconds):
            raise TemplateLimit("all template workers are busy; try again, or register the template with the model")
        try:
            worker = self._take()
            try:
                known = request["format"] in worker.formats
                answer = worker.ask(frame(request if known else request | {"define": definition}))
                if answer.get("unknown_format"):
                    answer = worker.ask(frame(request | {"define": definition}))
            except _WorkerLost as lost:
                worker.end()
                self._give(_Worker(self._limits))
                self._stopped[request["format"]] = (time.monotonic(), str(lost))
                raise TemplateLimit(f"the chat template {lost}") from lost
            except BaseException:
                worker.end()
                raise
            worker.formats.add(request["format"])
            self._give(worker)
            return answer
        finally:
            self._slots.release()

    def _take(self) -> _Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive():
                    return worker
                worker.end()
        return _Worker(self._limits)

    def _give(self, worker: _Worker) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(worker)
                return
        worker.end()
