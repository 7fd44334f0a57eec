"""Write to the object store beside the training, so that no step waits for a bucket that is slow or silent."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from services.store.errors import StoreError

MOST_WAITING: Final = 64  #: writes that wait for a store that is away; the oldest go first

log = logging.getLogger(__name__)


class Outage:
    """Tells once that the object store is away, whatever notices it first, until all that failed went through."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """Prepare; `tell` gets one sentence for each outage and is called by any thread."""
        self._tell = tell
        self._lock = threading.Lock()
        self._failing: set[str] = set()

    def failed(self, what: str, error: Exception) -> None:
        """Note that `what` failed and is tried again."""
        with self._lock:
            told = bool(self._failing)
            self._failing.add(what)
        if not told:
            self._tell(f"{error}; it is tried again.")

    def went_through(self, what: str) -> None:
        """Note that `what` succeeded."""
        with self._lock:
            self._failing.discard(what)


@dataclass(frozen=True, slots=True)
class _Write:
    what: str
    act: Callable[[], object]
    again: bool  # after a failure


class Aside:
    """A thread that makes writes in their order. One that must not be lost is tried again until `close`."""

    def __init__(self, outage: Outage, again: float = 10.0) -> None:
        """Prepare; the thread starts with the first write.

        Args:
            outage: hears of writes that fail and are tried again.
            again: seconds between two tries.
        """
        self._outage = outage
        self._again = again
        self._change = threading.Condition()
        self._waiting: deque[_Write] = deque()
        self._busy = False
        self._failing = False  # the first that waits has failed before
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, what: str, act: Callable[[], object]) -> None:
        """Make a write, and make it again while the store is away. `what` names it in the log."""
        self._add(_Write(what, act, again=True))

    def once(self, what: str, act: Callable[[], object]) -> None:
        """Make a write that may fail."""
        self._add(_Write(what, act, again=False))

    def settle(self, seconds: float) -> bool:
        """Wait until all is written, `seconds` at most, and not at all while the store is away.

        Returns:
            Whether all is written.
        """
        with self._change:
            self._change.wait_for(lambda: self._idle() or self._failing, timeout=seconds)
            return self._idle()

    def close(self, seconds: float) -> None:
        """Wait up to `seconds` for what waits, also while the store is away, and take no more. May be repeated."""
        with self._change:
            self._change.wait_for(self._idle, timeout=seconds)
            self._closed = True
            for write in self._waiting:
                log.warning("%s: not written", write.what)
            self._waiting.clear()
            self._change.notify_all()

    def _idle(self) -> bool:
        return not self._waiting and not self._busy

    def _add(self, write: _Write) -> None:
        with self._change:
            if self._closed:
                log.warning("%s: not written, for the attempt ends", write.what)
                return
            if len(self._waiting) >= MOST_WAITING:
                log.warning("%s: not written, for too much waits", self._waiting.popleft().what)
            self._waiting.append(write)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="aside", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def _work(self) -> None:
        while (write := self._take()) is not None:
            failed = self._failure(write)
            with self._change:
                self._busy = False
                self._failing = failed and write.again
                if self._failing and not self._closed:
                    self._waiting.appendleft(write)
                self._change.notify_all()
                if self._failing:
                    self._change.wait_for(lambda: self._closed, timeout=self._again)

    def _take(self) -> _Write | None:
        with self._change:
            self._change.wait_for(lambda: self._closed or bool(self._waiting))
            if not self._waiting:
                return None
            self._busy = True
            return self._waiting.popleft()

    def _failure(self, write: _Write) -> bool:
        """Make a write; return whether it failed."""
        try:
            write.act()
        except (StoreError, OSError) as error:
            log.warning("%s: not written: %s", write.what, error)
            if write.again:
                self._outage.failed("aside", error)
            return True
        self._outage.went_through("aside")
        return False
