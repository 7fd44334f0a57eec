"""Handler threads shared out among tokens, and bytes in work likewise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from contextvars import copy_context

import pytest

from services.preprocess.api.pools import FairPool
from services.preprocess.api.work import ByteBudget, Turns
from services.preprocess.domain.caller import CALLER, Caller
from services.preprocess.domain.refusals import WorkFull
from tests.support.api_calls import wait_until

WAIT = 60


def as_token(name: str, act: Callable[[], object]) -> Callable[..., object]:
    """What gRPC submits: `run` of the context in which the guard set the caller."""
    context = copy_context()
    context.run(CALLER.set, Caller(name, frozenset()))
    return lambda pool: pool.submit(context.run, act)


@pytest.fixture
def pool() -> Iterator[FairPool]:
    made = FairPool(4, per_token=2)
    yield made
    made.shutdown(wait=True, cancel_futures=True)


def test_one_token_holds_its_share_of_the_threads_and_another_goes_on(pool: FairPool) -> None:
    gate, began = threading.Event(), threading.Semaphore(0)

    def work() -> bool:
        began.release()
        return gate.wait(WAIT)

    hostile = [as_token("bad", work)(pool) for _ in range(10)]
    assert began.acquire(timeout=WAIT)
    assert began.acquire(timeout=WAIT)
    assert pool.taken_by("bad") == 10
    good: Future[str] = as_token("good", lambda: "answer")(pool)  # type: ignore[assignment]
    assert good.result(WAIT) == "answer"
    assert not began.acquire(blocking=False), "two of its calls run, eight wait"
    gate.set()
    assert [one.result(WAIT) for one in hostile] == [True] * 10  # type: ignore[attr-defined]
    wait_until(lambda: pool.taken == 0)  # a call is counted off just after its result is there


def test_callers_without_a_token_may_have_all_threads(pool: FairPool) -> None:
    met = threading.Barrier(4)
    calls = [as_token("", lambda: met.wait(WAIT))(pool) for _ in range(4)]
    assert sorted(one.result(WAIT) for one in calls) == [0, 1, 2, 3]  # type: ignore[attr-defined]


def test_a_call_that_fails_or_is_cancelled_gives_its_turn_away(pool: FairPool) -> None:
    gate = threading.Event()
    for _ in range(2):
        as_token("bad", lambda: gate.wait(WAIT))(pool)
    cancelled = as_token("bad", lambda: "never")(pool)
    failing = as_token("bad", lambda: 1 / 0)(pool)
    last = as_token("bad", lambda: "last")(pool)
    assert cancelled.cancel()  # type: ignore[attr-defined]
    gate.set()
    with pytest.raises(ZeroDivisionError):
        failing.result(WAIT)  # type: ignore[attr-defined]
    assert last.result(WAIT) == "last"  # type: ignore[attr-defined]


def test_shutdown_cancels_what_waits_for_its_turn() -> None:
    pool, gate = FairPool(4, per_token=1), threading.Event()
    first = as_token("a", lambda: gate.wait(WAIT))(pool)
    waits = as_token("a", lambda: "never")(pool)
    pool.shutdown(wait=False, cancel_futures=True)
    assert waits.cancelled()  # type: ignore[attr-defined]
    gate.set()
    assert first.result(WAIT)  # type: ignore[attr-defined]


def test_slices_of_one_token_take_turns_and_hear_when_nobody_waits() -> None:
    turns, inside, most = Turns(2), threading.Semaphore(0), 0
    gate = threading.Event()

    def work(token: str) -> None:
        with turns.take(token, lambda: None):
            inside.release()
            gate.wait(WAIT)

    threads = [threading.Thread(target=work, args=("bad",)) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=WAIT)
    assert inside.acquire(timeout=WAIT)
    with turns.take("good", lambda: None), turns.take("", lambda: None):
        most = sum(inside.acquire(blocking=False) for _ in range(3))
    assert most == 0

    def left() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError), turns.take("bad", left):
        pass
    gate.set()
    for thread in threads:
        thread.join(WAIT)
    with turns.take("bad", left):
        pass


def test_one_large_message_is_in_work_at_a_time() -> None:
    budget = ByteBudget(200 << 20)
    with budget.hold(17 << 20, "a"):
        with pytest.raises(WorkFull), budget.hold(17 << 20, "b", patience=0.0):
            pass
        with budget.hold(15 << 20, "b", patience=0.0):
            pass
    with budget.hold(57 << 20, "b", patience=0.0):
        pass


def test_a_token_leaves_a_quarter_of_the_bytes_to_others() -> None:
    budget = ByteBudget(100)
    with ExitStack() as held:
        held.enter_context(budget.hold(60, "bad"))
        with pytest.raises(WorkFull), budget.hold(20, "bad", patience=0.0):
            pass
        held.enter_context(budget.hold(25, "good"))
        held.enter_context(budget.hold(10, "bad"))
        with pytest.raises(WorkFull), budget.hold(10, "other", patience=0.0):
            pass
    with budget.hold(500, "bad"), pytest.raises(WorkFull), budget.hold(1, "good", patience=0.0):
        pass
