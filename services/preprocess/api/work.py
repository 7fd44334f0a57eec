"""Bound the total cost of running calls: bytes of messages in work, and seconds of one call."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.preprocess.domain.refusals import WorkExceeded, WorkFull

#: Seconds that a message waits for room before its call is refused.
PATIENCE = 5.0
#: Bytes above which a message is the only one of its kind in work: short messages take 12 times their size once parsed.
LARGE = 16 << 20
#: Slices of one token's batches in work at once: more threads of it would only take the interpreter from others.
SLICES_PER_TOKEN = 4
#: Seconds between two looks of a waiting slice at whether anybody waits for it.
LOOK = 0.5


class ByteBudget:
    """A budget for the bytes of request messages that are parsed and worked on at once, process-wide.

    A message costs a multiple of its size while its conversations are masked. One that is larger than what is left
    waits. So does one that would give its token more than three quarters, or a second one above LARGE. A token's only
    one is exempt from its three quarters, and one alone is always admitted. So the largest message that gRPC takes can
    be served.
    """

    def __init__(self, most: int, changed: Callable[[int], None] = lambda _: None) -> None:
        """Start with nothing in work.

        Args:
            most: bytes in work at a time.
            changed: told the bytes in work after each change, for metrics.
        """
        self.most = most
        self._changed = changed
        self._taken = self._large = 0
        self._taken_by: Counter[str] = Counter()
        self._room = threading.Condition()

    @contextmanager
    def hold(self, size: int, token: str = "", patience: float | None = None) -> Iterator[None]:
        """Hold `size` bytes of a token's message while the block runs; of no token's: empty.

        Raises:
            WorkFull: no room came free within `patience` seconds, PATIENCE where none are given.
        """
        with self._room:
            seconds = PATIENCE if patience is None else patience
            if not self._room.wait_for(lambda: self._fits(size, token), seconds):
                raise WorkFull(size, self.most)
            self._change(size, token)
        try:
            yield
        finally:
            with self._room:
                self._change(-size, token)
                self._room.notify_all()

    def _fits(self, size: int, token: str) -> bool:
        if not self._taken:
            return True
        if size > LARGE and self._large:
            return False
        mine = self._taken_by[token] if token else 0
        return self._taken + size <= self.most and (not mine or mine + size <= self.most * 3 // 4)

    def _change(self, size: int, token: str) -> None:
        self._taken += size
        self._large += (size > LARGE) - (size < -LARGE)
        self._taken_by[token] += size
        if not self._taken_by[token]:
            del self._taken_by[token]
        self._changed(self._taken)


class Turns:
    """The turns of tokens at masking, which streams and single calls take slice by slice."""

    def __init__(self, most: int = SLICES_PER_TOKEN) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()
        self._free = threading.Condition()

    @contextmanager
    def take(self, token: str, check: Callable[[], None]) -> Iterator[None]:
        """Take one of a token's turns for the block, waiting for it; empty: callers without a token never wait.

        Raises:
            What `check` raises, which is called while it waits.
        """
        with self._free:
            while token and self._taken[token] >= self._most:
                check()
                self._free.wait(LOOK)
            self._taken[token] += 1
        try:
            yield
        finally:
            with self._free:
                self._taken -= Counter({token: 1})  # drops tokens that have none
                self._free.notify_all()


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
