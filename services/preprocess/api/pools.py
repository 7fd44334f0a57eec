"""Handler threads of the gRPC server: they count the calls of each token, and may be shared out among tokens."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from functools import partial
from typing import ParamSpec, TypeVar, cast

from services.preprocess.domain.caller import CALLER

P = ParamSpec("P")
T = TypeVar("T")
Waiting = tuple[Callable[[], None], "Future[object]"]


class CountedPool(ThreadPoolExecutor):
    """Handler threads that count their calls per token, waiting ones included; one task is one call."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="rpc")
        self.threads = threads
        self._taken: Counter[str] = Counter()
        self._counting = threading.Lock()

    @property
    def taken(self) -> int:
        """Return the number of calls that run or wait."""
        return self._taken.total()

    def taken_by(self, token: str) -> int:
        """Return the number of calls of one token that run or wait."""
        return self._taken[token]

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit one call; gRPC passes the `run` of the context in which the guard set the caller."""
        token = _token_of(fn)
        with self._counting:
            self._taken[token] += 1
        try:
            future = self._begin(token, partial(fn, *args, **kwargs))
        except BaseException:
            self._done(token)
            raise
        future.add_done_callback(lambda _: self._done(token))
        return future

    def _begin(self, token: str, call: Callable[[], T]) -> Future[T]:
        return super().submit(call)

    def _done(self, token: str) -> None:
        with self._counting:
            self._taken -= Counter({token: 1})  # drops tokens that have none


class FairPool(CountedPool):
    """Handler threads of which one token has some at most; its other calls wait, and hold up nobody else's.

    Callers without a token are one another's equals, and may have all.
    """

    def __init__(self, threads: int, per_token: int) -> None:
        super().__init__(threads)
        self._per_token = per_token
        self._sharing = threading.Lock()
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[Waiting]] = {}

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop, with `cancel_futures` also what waits for its token's turn."""
        with self._sharing:
            waiting = [call for calls in self._waiting.values() for call in calls] if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
        for _, future in waiting:
            future.cancel()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _begin(self, token: str, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        task = partial(_settle, call, future)
        with self._sharing:
            if token and self._running[token] >= self._per_token:
                self._waiting.setdefault(token, deque()).append((task, cast("Future[object]", future)))
                return future
            self._running[token] += 1
        self._start(token, task)
        return future

    def _start(self, token: str, task: Callable[[], None]) -> None:
        super()._begin(token, task).add_done_callback(lambda _: self._next(token))

    def _next(self, token: str) -> None:
        """Begin the token's next call in the place of the one that ended."""
        with self._sharing:
            calls = self._waiting.get(token)
            if not calls:
                self._waiting.pop(token, None)
                self._running -= Counter({token: 1})
                return
            task, future = calls.popleft()
        try:
            self._start(token, task)
        except RuntimeError:  # shut down meanwhile
            future.cancel()


def _settle(call: Callable[[], T], future: Future[T]) -> None:
    """Make a call and pass its outcome to the future that its submitter has."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        answer = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(answer)


def _token_of(fn: object) -> str:
    context = getattr(fn, "__self__", None)
    caller = context.get(CALLER) if isinstance(context, Context) else None
    return caller.name if caller is not None else ""
