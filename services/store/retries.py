"""Repeat a call during an outage of Redis or the object store. Only for calls that are safe to repeat."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from services.store.errors import RedisUnavailable, StoreError, StoreUnavailable

Result = TypeVar("Result")


def retry_redis(
    call: Callable[[], Result],
    seconds: float = 300.0,
    *,
    stop: threading.Event | None = None,
    on_retry: Callable[[StoreError], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Repeat a call to Redis; after `seconds` raise its last RedisUnavailable.

    `stop` ends the retries early. Waits double from 0.1 s to 5 s, each with up to a half of jitter.
    """
    return _retry(call, (RedisUnavailable,), seconds, (0.1, 5.0), stop or threading.Event(), on_retry, clock)


def retry_copy(
    copy: Callable[[], Result], seconds: float = 300.0, *, on_retry: Callable[[StoreError], None] | None = None
) -> Result:
    """Repeat a copy to the object store while it is full or away, or Redis is away for its note.

    After `seconds` raise the last error. What `on_retry` raises ends the retries. Waits double from 0.5 s to 10 s.
    """
    waiting = threading.Event()
    return _retry(copy, (StoreUnavailable, RedisUnavailable), seconds, (0.5, 10.0), waiting, on_retry, time.monotonic)


def _retry(
    call: Callable[[], Result],
    errors: tuple[type[StoreError], ...],
    seconds: float,
    pauses: tuple[float, float],  # the first and the longest, seconds
    stop: threading.Event,
    on_retry: Callable[[StoreError], None] | None,
    clock: Callable[[], float],
) -> Result:
    deadline = clock() + seconds
    pause, longest = pauses
    while True:
        try:
            return call()
        except errors as error:
            left = deadline - clock()
            if left <= 0 or stop.is_set():
                raise
            if on_retry is not None:
                on_retry(error)
            stop.wait(min(left, pause * random.uniform(1.0, 1.5)))  # noqa: S311  # jitter, not a secret
            pause = min(longest, pause * 2)
