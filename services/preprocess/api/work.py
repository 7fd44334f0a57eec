"""Bound the total cost of running calls: bytes of messages in work, and seconds of one call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.preprocess.domain.refusals import WorkExceeded, WorkFull

#: Seconds that a message waits for room before its call is refused.
PATIENCE = 5.0


class ByteBudget:
    """A budget for the bytes of request messages that are parsed and worked on at once, process-wide.

    A message costs a multiple of its size while its conversations are masked. One that is larger than what is left
    waits. One alone is always admitted, so that the largest message that gRPC takes can be served.
    """

    def __init__(self, most: int, changed: Callable[[int], None] = lambda _: None) -> None:
        """Start with nothing in work.

        Args:
            most: bytes in work at a time.
            changed: told the bytes in work after each change, for metrics.
        """
        self.most = most
        self._changed = changed
        self._taken = 0
        self._room = threading.Condition()

    @contextmanager
    def hold(self, size: int, patience: float | None = None) -> Iterator[None]:
        """Hold `size` bytes while the block runs.

        Raises:
            WorkFull: no room came free within `patience` seconds, PATIENCE where none are given.
        """
        with self._room:
            seconds = PATIENCE if patience is None else patience
            if not self._room.wait_for(lambda: not self._taken or self._taken + size <= self.most, seconds):
                raise WorkFull(size, self.most)
            self._change(size)
        try:
            yield
        finally:
            with self._room:
                self._change(-size)
                self._room.notify_all()

    def _change(self, size: int) -> None:
        self._taken += size
        self._changed(self._taken)


class WorkClock:
    """The time limit of one call, checked between slices of its batch."""

    def __init__(self, seconds: float, check_caller: Callable[[], None]) -> None:
        """Start now.

        Args:
            seconds: that one message of the call may take.
            check_caller: raises when no caller waits for the answer any more.
        """
        self._seconds = seconds
        self._check_caller = check_caller
        self._began = time.monotonic()

    def restart(self) -> None:
        """Restart with the next message of a stream."""
        self._began = time.monotonic()

    def check(self) -> None:
        """Return if the call may go on, else raise.

        Raises:
            ClientLeft, Draining: no caller waits for the answer.
            WorkExceeded: this message took too long.
        """
        self._check_caller()
        if time.monotonic() - self._began > self._seconds:
            raise WorkExceeded(self._seconds)
