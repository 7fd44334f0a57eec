"""Several API processes behind one port: the kernel deals connections out, this one watches over them. Holds no gRPC.

Each process is the whole API, with models and limits of its own. It listens once its models are loaded, so whichever
answers is ready. The first prepares models for the others. One that dies is replaced; one that can't begin ends all.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from services.preprocess.api.addresses import kept_port
from services.preprocess.api.announce import announce
from services.preprocess.api.exporter import SHARED_FOLDER, exported_port, forget_process, metrics_of
from services.preprocess.settings import ApiSettings
from services.store.logs import log_to_stderr
from services.variables import BadSetting

LOG = logging.getLogger("turnloom.api")
#: Between looks for a signal, and for processes that ended.
LOOK_SECONDS: Final = 0.5
#: That a process may take to end beside what it grants to running calls.
END_SECONDS: Final = 10.0
USAGE_ERROR: Final = 2  #: exit code of a process that can't use models.toml or its address


def serve_together(settings: ApiSettings, port_file: Path | None) -> int:
    """Serve from `settings.processes` processes until SIGTERM or SIGINT, then drain them.

    Args:
        settings: of all of them.
        port_file: gets the line that is printed once all of them listen.

    Returns:
        The exit code: 0, or that of a process that could not begin.

    Raises:
        BadSetting: gRPC's or the metrics' address can't be listened on.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="turnloom-metrics-") as folder:
        os.environ[SHARED_FOLDER] = folder  # to the processes; here nothing is counted
        with kept_port(settings.address) as address:
            group = _Group(replace(settings, address=address, metrics_port=0), Path(folder))
            exported = exported_port(metrics_of(Path(folder), group.ids), settings)
            begun = group.begin(1, stop) and group.begin(settings.processes, stop)
        if begun:
            announce(address, exported, port_file)
            group.watch(stop)
        group.end(settings.drain_seconds + END_SECONDS)
        return group.failed


def _serve_one(settings: ApiSettings, told: Connection) -> None:
    """Serve in a process of its own, and end with the exit code."""
    # Imported here, for the process that watches holds neither gRPC nor models.
    from services.preprocess.api.process import serve_shared  # noqa: PLC0415

    log_to_stderr(settings.log_level)
    try:
        sys.exit(serve_shared(settings, told))
    except BadSetting as error:
        sys.stderr.write(f"services.preprocess: {error}\n")
        sys.exit(USAGE_ERROR)


class _Group:
    """The processes that serve together."""

    def __init__(self, settings: ApiSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._spawning = multiprocessing.get_context("spawn")  # a fork would take gRPC's threads with it
        self._running: dict[int, tuple[BaseProcess, Connection]] = {}  #: process id -> process, what it says
        self._listening: set[int] = set()
        self.failed = 0  #: exit code of one that could not begin

    def ids(self) -> list[int]:
        """Return the ids of those that run."""
        return list(self._running)

    def begin(self, count: int, stop: threading.Event) -> bool:
        """Start processes until `count` run, and wait until all listen; False where one can't, or `stop` is set."""
        while len(self._running) < count:
            self._start()
        while len(self._listening) < count:
            if stop.is_set() or not self._look(stop):
                return False
        return True

    def watch(self, stop: threading.Event) -> None:
        """Replace processes that die, until `stop` is set or a new one can't begin."""
        while not stop.is_set() and self._look(stop):
            while len(self._running) < self._settings.processes and not stop.is_set():
                self._start()

    def end(self, seconds: float) -> None:
        """Let all drain; what runs after `seconds` is killed."""
        deadline = time.monotonic() + seconds
        for process, _ in self._running.values():
            process.terminate()
        for process, said in self._running.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                LOG.error("a process of the API does not end and is killed", extra={"pid": process.pid})
                process.kill()
                process.join()
            said.close()
        self._running.clear()

    def _start(self) -> None:
        heard, saying = self._spawning.Pipe(duplex=False)
        process = self._spawning.Process(target=_serve_one, args=(self._settings, saying))
        process.start()
        saying.close()
        assert process.pid is not None, "it was started"
        self._running[process.pid] = process, heard

    def _look(self, stop: threading.Event) -> bool:
        """Wait for news for a moment; False where a process ended before it listened."""
        starting = {said: pid for pid, (_, said) in self._running.items() if pid not in self._listening}
        ends = {process.sentinel: pid for pid, (process, _) in self._running.items()}
        news = wait([*starting, *ends], LOOK_SECONDS)
        for said in starting.keys() & {one for one in news if isinstance(one, Connection)}:
            with suppress(EOFError):  # it ended; its sentinel says so
                said.recv()
                self._listening.add(starting[said])
        return all(self._ended(ends[one], stop) for one in news if isinstance(one, int))

    def _ended(self, pid: int, stop: threading.Event) -> bool:
        process, said = self._running.pop(pid)
        process.join()
        said.close()
        forget_process(pid, self._folder)
        if pid not in self._listening:
            self.failed = process.exitcode if process.exitcode and process.exitcode > 0 else 1
            return False
        self._listening.discard(pid)
        if not stop.is_set():  # else the signal went to all of the group, as a terminal's Ctrl-C and systemd's do
            LOG.error("a process of the API died; another begins", extra={"pid": pid, "code": process.exitcode})
        return True
