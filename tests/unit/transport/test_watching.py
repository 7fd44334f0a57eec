from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnloom.errors import (
    DeadlineExceeded,
    NotFound,
    ResourceExhausted,
    ServerUnreachable,
    TurnloomError,
    Unavailable,
)
from turnloom.transport.watching import follow


@dataclass
class Update:
    event_id: str


def position(update: Update) -> str:
    return update.event_id


class Server:
    """A stream of numbered updates that breaks off after as many as each entry of `breaks` says."""

    def __init__(self, total: int, breaks: list[tuple[int, TurnloomError | None]]) -> None:
        self.total, self.breaks = total, list(breaks)
        self.now = 0.0
        self.opened: list[str] = []

    def start(self, after: str) -> Iterator[Update]:
        self.opened.append(after)
        first = int(after or 0) + 1
        count, error = self.breaks.pop(0) if self.breaks else (self.total, None)
        for number in range(first, min(self.total, first + count - 1) + 1):
            yield Update(str(number))
        if error is not None:
            raise error

    def finished(self) -> bool:
        return not self.breaks

    def pause(self, seconds: float) -> None:
        self.now += seconds


FULL = ResourceExhausted("All 32 slots are taken.", retry_after=5.0)
ERRORS = st.sampled_from([ServerUnreachable("gone"), Unavailable("draining"), DeadlineExceeded("silent"), FULL, None])


@given(st.integers(0, 30), st.lists(st.tuples(st.integers(0, 5), ERRORS), max_size=30))
def test_every_update_comes_once_and_in_order_whatever_breaks(total: int, breaks: list) -> None:
    server = Server(total, breaks)
    seen = [
        u.event_id
        for u in follow(server.start, server.finished, position, pause=server.pause, clock=lambda: server.now)
    ]
    assert seen == [str(number) for number in range(1, total + 1)]


def test_a_server_that_stays_away_is_given_up_with_its_last_error() -> None:
    server = Server(5, [(2, ServerUnreachable("gone"))] * 1000)
    server.finished = lambda: False  # type: ignore[method-assign]
    seen: list[str] = []
    troubles: list[TurnloomError] = []
    updates = follow(
        server.start,
        server.finished,
        position,
        patience=60,
        pause=server.pause,
        clock=lambda: server.now,
        on_trouble=troubles.append,
    )
    with pytest.raises(ServerUnreachable, match="gone"):
        seen.extend(update.event_id for update in updates)
    assert seen == ["1", "2", "3", "4", "5"]
    assert 60 < server.now < 70
    assert len(troubles) > 10


def test_a_refusal_is_raised_at_once() -> None:
    server = Server(5, [(2, NotFound("There is no job j."))])
    with pytest.raises(NotFound, match="There is no job j"):
        list(follow(server.start, server.finished, position, pause=server.pause))
    assert server.opened == [""]


def test_a_silent_server_that_still_answers_is_watched_on() -> None:
    server = Server(1, [(0, DeadlineExceeded("silent"))] * 500)
    list(follow(server.start, server.finished, position, patience=10, pause=server.pause, clock=lambda: server.now))
    assert len(server.opened) == 501


def test_a_server_whose_slots_stay_taken_is_given_up_and_what_is_too_large_at_once() -> None:
    for error, least in ((FULL, 60.0), (ResourceExhausted("An update is too large."), 0.0)):
        server = Server(5, [(2, error), *[(0, error)] * 1000])
        updates = follow(
            server.start, server.finished, position, patience=60, pause=server.pause, clock=lambda s=server: s.now
        )
        with pytest.raises(ResourceExhausted) as caught:
            list(updates)
        assert caught.value is error
        assert least <= server.now < least + 5
