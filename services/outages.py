"""Log an outage when it begins, now and then while it lasts, and when it is over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

AGAIN: Final = 60.0  #: seconds between two lines on one outage


class OutageLog:
    """The lines on one thing that is tried again and again; any thread may tell how a try went."""

    def __init__(self, log: logging.Logger, failing: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare.

        Args:
            log: where the lines go.
            failing: what is the case during an outage, such as "Redis can't be used".
            clock: seconds.
        """
        self._log, self._failing, self._clock = log, failing, clock
        self._lock = threading.Lock()
        self._began = self._told = 0.0
        self._away = False

    def failed(self, error: object) -> None:
        """Note a try that failed."""
        with self._lock:
            now = self._clock()
            if not self._away:
                self._away, self._began, self._told = True, now, now
                self._log.warning("%s (%s); trying again", self._failing, error)
            elif now - self._told >= AGAIN:
                self._told = now
                self._log.warning("%s for %.0f s now (%s); trying again", self._failing, now - self._began, error)

    def went_through(self) -> None:
        """Note a try that went well."""
        with self._lock:
            if self._away:
                self._away = False
                self._log.warning("%s: that is over, after %.0f s", self._failing, self._clock() - self._began)
