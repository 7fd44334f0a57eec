"""Child processes that log to files, end with their parent, and are waited for with a deadline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from turnloom.errors import StackError

TIED = Path(__file__).with_name("tied.py")
POLL = 0.1  #: seconds between two looks at a condition
TAIL = 3  #: lines of a log in an error
RESTARTS = 3  #: of one child within RESTART_SECONDS; one more is a fault
RESTART_SECONDS = 60.0


class Child:
    """One process, started at once, ended by stop() or with its parent."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str], cwd: Path) -> None:
        """Start the process.

        Args:
            name: display name.
            command: program and arguments.
            log: file to append its output to.
            environment: variables added to this process's own.
            cwd: its working folder.
        """
        self.name, self.log = name, log
        self._command, self._environment, self._cwd = command, environment, cwd
        self._restarts: deque[float] = deque(maxlen=RESTARTS)
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(TIED), str(os.getpid()), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                cwd=self._cwd,
                start_new_session=True,  # Ctrl-C reaches this process only, which then ends the child in order
            )

    def restart(self) -> None:
        """Start it again after it ended.

        Raises:
            StackError: it was restarted RESTARTS times within RESTART_SECONDS already.
        """
        now = time.monotonic()
        if len(self._restarts) == RESTARTS and now - self._restarts[0] < RESTART_SECONDS:
            raise self.epitaph()
        self._restarts.append(now)
        self._process = self._started()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    def stop(self, deadline: float) -> None:
        """Send SIGTERM, then SIGKILL to it and its group after `deadline` seconds."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(deadline)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()

    def epitaph(self) -> StackError:
        """Return the error for a process that ended by itself, with the end of its log."""
        said = " / ".join(tail(self.log)) or "nothing"
        return StackError(f"{self.name} ended {self.how}. It said: {said}", hint=f"Its log: {self.log}")

    @property
    def how(self) -> str:
        """How it ended: "by signal 9", "with code 1"."""
        code = self._process.returncode
        return f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"


def tail(log: Path, lines: int = TAIL) -> list[str]:
    """Return the last non-blank lines."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()][-lines:]


def wait_until(ready: Callable[[], bool], child: Child, what: str, deadline: float) -> None:
    """Wait for a condition that a child brings about.

    Raises:
        StackError: the child ended, or `deadline` seconds went by.
    """
    until = time.monotonic() + deadline
    while not ready():
        if not child.running:
            raise child.epitaph()
        if time.monotonic() > until:
            raise StackError(
                f"{child.name}: {what} did not come within {deadline:g} s. It said: {' / '.join(tail(child.log))}",
                hint=f"Its log: {child.log}",
            )
        time.sleep(POLL)


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Let SIGTERM run `finally` blocks as Ctrl-C does, and exit with code 143."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    with _handling(signal.SIGTERM, leave):
        yield


@contextmanager
def on_child_death(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` in the main thread whenever a child ends; its exceptions interrupt what runs there."""

    def look(number: int, frame: FrameType | None) -> None:
        check()

    with _handling(signal.SIGCHLD, look):
        check()
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM until the block ends, for cleaning up.

    Uses handlers instead of a signal mask: a mask covers one thread only, and gRPC's threads take signals too.
    """
    kept: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        kept.append(number)

    with _handling(signal.SIGINT, keep), _handling(signal.SIGTERM, keep):
        yield
    if kept:
        signal.raise_signal(kept[0])


@contextmanager
def _handling(number: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers; the caller watches a stack in another thread
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
