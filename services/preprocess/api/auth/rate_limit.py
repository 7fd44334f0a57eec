"""Rate limit of conversations per second: a token bucket per caller, refilled evenly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from services.preprocess.domain.refusals import RateExceeded

BURST_SECONDS: Final = 10.0  #: of its rate that a caller may use at once after a rest


@dataclass(slots=True)
class _Bucket:
    level: float  #: conversations that may be sent now; below 0 what a stream has taken in advance
    at: float  #: seconds, when `level` was right


class Rates:
    """The buckets of all callers; thread-safe."""

    def __init__(self, rate: float, at_least: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets.

        Args:
            rate: conversations per second and caller; 0: no limit.
            at_least: conversations that a full bucket holds whatever the rate: the largest batch, or none would pass.
            clock: seconds.
        """
        self._rate = rate
        self._full = max(rate * BURST_SECONDS, at_least)
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def take(self, caller: str, conversations: int, patience: float = 0.0) -> float:
        """Take from a caller's bucket and return the seconds to wait before going on, at most `patience`.

        Raises:
            RateExceeded: the wait would be longer; nothing was taken.
        """
        if not self._rate:
            return 0.0
        now = self._clock()
        with self._lock:
            bucket = self._buckets.setdefault(caller, _Bucket(self._full, now))
            bucket.level = min(self._full, bucket.level + (now - bucket.at) * self._rate)
            bucket.at = now
            wait = max(0.0, (conversations - bucket.level) / self._rate)
            if wait > patience:
                raise RateExceeded(self._rate, wait - patience)
            bucket.level -= conversations
        return wait
