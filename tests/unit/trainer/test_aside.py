"""Writes beside the training: in order, again while the store is away, waited for no longer than they are worth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from services.store.errors import StoreUnavailable
from services.trainer.aside import MOST_WAITING, Aside, Outage

LONG = 30.0  #: seconds; a test that waits for so long has failed


class Bucket:
    """A store that answers while `answers` is set, and refuses while `away` is set."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.away = threading.Event()
        self.asked = threading.Semaphore(0)
        self.held: list[str] = []

    def write(self, name: str) -> Callable[[], None]:
        def act() -> None:
            self.asked.release()
            assert self.answers.wait(LONG)
            if self.away.is_set():
                raise StoreUnavailable("away")
            self.held.append(name)

        return act

    def wait_until_asked(self) -> None:
        assert self.asked.acquire(timeout=LONG)


def test_writes_go_in_their_order_and_are_there_when_they_are_waited_for() -> None:
    bucket, aside = Bucket(), Aside(Outage(lambda _sentence: None))
    for number in range(20):
        aside.put(f"{number}", bucket.write(f"{number}"))
    assert aside.settle(LONG)
    assert bucket.held == [f"{number}" for number in range(20)]


def test_a_silent_store_holds_nobody_up_and_gets_everything_when_it_answers() -> None:
    bucket, aside = Bucket(), Aside(Outage(lambda _sentence: None))
    bucket.answers.clear()
    begun = time.monotonic()
    for name in ("a", "b"):
        aside.put(name, bucket.write(name))
        assert not aside.settle(0.05)
    assert time.monotonic() - begun < LONG / 2
    bucket.answers.set()
    aside.close(LONG)
    assert bucket.held == ["a", "b"]


def test_a_store_that_is_away_is_told_once_and_not_waited_for_at_all() -> None:
    told: list[str] = []
    bucket, aside = Bucket(), Aside(Outage(told.append), again=0.01)
    bucket.away.set()
    aside.put("a", bucket.write("a"))
    for _ in range(3):
        bucket.wait_until_asked()
    assert not aside.settle(10 * LONG)  # returns at once: the test's own time-out is shorter
    assert told == ["away; it is tried again."]
    bucket.away.clear()
    aside.close(LONG)
    assert bucket.held == ["a"]


def test_what_may_fail_is_tried_once() -> None:
    told: list[str] = []
    bucket, aside = Bucket(), Aside(Outage(told.append), again=60.0)
    bucket.away.set()
    aside.once("removal", bucket.write("removal"))
    assert aside.settle(LONG)
    bucket.away.clear()
    aside.put("a", bucket.write("a"))
    aside.close(LONG)
    assert (bucket.held, told) == (["a"], [])


def test_what_waits_is_bounded_and_the_oldest_go() -> None:
    bucket, aside = Bucket(), Aside(Outage(lambda _sentence: None))
    bucket.answers.clear()
    aside.put("first", bucket.write("first"))
    bucket.wait_until_asked()
    for number in range(MOST_WAITING + 3):
        aside.put(f"{number}", bucket.write(f"{number}"))
    bucket.answers.set()
    aside.close(LONG)
    assert bucket.held == ["first", *(f"{number}" for number in range(3, MOST_WAITING + 3))]


def test_nothing_is_written_after_the_end() -> None:
    bucket, aside = Bucket(), Aside(Outage(lambda _sentence: None), again=LONG)
    bucket.away.set()
    aside.put("a", bucket.write("a"))
    assert not aside.settle(LONG)  # it has failed, and is not under way again
    aside.close(0.0)
    bucket.away.clear()
    aside.put("b", bucket.write("b"))
    assert aside.settle(LONG)
    assert bucket.held == []


def test_an_outage_ends_when_all_that_failed_went_through() -> None:
    told: list[str] = []
    outage = Outage(told.append)
    outage.failed("mirror", StoreUnavailable("one"))
    outage.failed("losses", StoreUnavailable("two"))
    outage.went_through("mirror")
    outage.failed("losses", StoreUnavailable("three"))
    assert told == ["one; it is tried again."]
    outage.went_through("losses")
    outage.failed("mirror", StoreUnavailable("four"))
    assert told == ["one; it is tried again.", "four; it is tried again."]
