"""Reopen a stream wherever it broke off, so that nothing is missed or seen twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from turnloom.errors import DeadlineExceeded, ResourceExhausted, ServerUnreachable, TurnloomError, Unavailable

STREAM_SECONDS: Final = 60.0  #: deadline of one stream: a connection that died silently is noticed after this long
PATIENCE_SECONDS: Final = 300.0  #: how long a server may be away before watching gives up
BACKOFF: Final = (0.2, 0.5, 1.0, 2.0, 3.0)  #: seconds before each new attempt; the last one repeats


U = TypeVar("U")


def follow(
    start: Callable[[str], Iterator[U]],
    finished: Callable[[], bool],
    position: Callable[[U], str],
    *,
    after: str = "",
    patience: float = PATIENCE_SECONDS,
    on_trouble: Callable[[TurnloomError], None] = lambda error: None,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[U]:
    """Yield every message once and in order, across broken connections, until the server ends a finished stream.

    Args:
        start: opens the stream after the position it is given ("" for the beginning).
        finished: whether nothing more will happen; asked when a stream ended or was silent for its deadline.
        position: of a message, from which the stream can be resumed after it; "" where it can only begin again.
        after: position to begin after.
        patience: seconds without any answer after which the last error is raised.
        on_trouble: called with the error of each failed attempt.
        pause: waits so many seconds.
        clock: seconds, monotonic.

    Raises:
        TurnloomError: the server refused, or was away or had no slot free for longer than `patience`.
    """
    failures = 0
    answered = clock()
    over = False  # known before the stream was opened, so nothing can follow its end
    while True:
        try:
            try:
                for update in start(after):
                    after, failures, answered = position(update), 0, clock()
                    yield update
                if over:
                    return
            except DeadlineExceeded:
                pass  # our own deadline: nothing happened within it
            over = finished()
            failures, answered = 0, clock()
            if over:
                continue
        except (ServerUnreachable, Unavailable, DeadlineExceeded, ResourceExhausted) as error:
            full = isinstance(error, ResourceExhausted)  # others may have taken the slot of the stream that broke off
            if clock() - answered > patience or (full and not error.retry_after):
                raise
            on_trouble(error)
        pause(BACKOFF[min(failures, len(BACKOFF) - 1)])
        failures += 1
