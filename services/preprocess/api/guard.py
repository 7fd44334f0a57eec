"""In front of every RPC: who calls, may they, and is there room. What is refused here, no byte of its message is read.

Knows gRPC and the table of auth; no servicer. Refusals are answered by threads of their own, so that they come while
every handler thread is busy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeAlias, TypeVar

import grpc

from services.preprocess.api.auth.bearer_tokens import TokenBook
from services.preprocess.api.auth.scopes import NEEDS, Need, authenticate, check_scope
from services.preprocess.api.rpc import CALL_TYPES, Rpc
from services.preprocess.domain.caller import ANYBODY, CALLER, Caller
from services.preprocess.domain.refusals import TooManyCalls

REFUSERS: Final = 2  #: threads that do nothing but refuse
P = ParamSpec("P")
T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")
Handler: TypeAlias = "grpc.RpcMethodHandler[Q, A]"


class CountedPool(ThreadPoolExecutor):
    """Handler threads that know how many calls they have, waiting ones included; gRPC submits one task a call."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="rpc")
        self._taken = 0
        self._counting = threading.Lock()

    @property
    def taken(self) -> int:
        """Calls that run or wait."""
        return self._taken

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Take one call."""
        future = super().submit(fn, *args, **kwargs)
        with self._counting:
            self._taken += 1
        future.add_done_callback(self._done)
        return future

    def _done(self, _future: Future[T]) -> None:
        with self._counting:
            self._taken -= 1


class Guard(grpc.ServerInterceptor):
    """Lets a call through with its caller set, or puts a refusal in the place of its handler."""

    def __init__(self, rpc: Rpc, book: TokenBook | None, pool: CountedPool, max_calls: int) -> None:
        """Guard one server.

        Args:
            rpc: counts, logs and answers refusals.
            book: tokens; None: everybody may do everything.
            pool: the server's handler threads.
            max_calls: that run or wait at once.
        """
        self._rpc = rpc
        self._book = book
        self._pool = pool
        self._max_calls = max_calls
        self._refusers = ThreadPoolExecutor(REFUSERS, thread_name_prefix="refuse")

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler[Q, A] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler[Q, A] | None:
        """Called by gRPC in its one serving thread, once a call, before the message is read."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or NEEDS.get(method) is Need.NOTHING:
            return handler
        try:
            CALLER.set(self._admitted(handler_call_details))
        except Exception as error:  # whatever it is, the call does not pass
            return self._refusal(method, handler, error)
        return handler

    def close(self) -> None:
        """End the refusing threads."""
        self._refusers.shutdown(wait=False, cancel_futures=True)

    def _admitted(self, details: grpc.HandlerCallDetails) -> Caller:
        found = ANYBODY if self._book is None else authenticate(details.invocation_metadata, self._book.find)
        check_scope(found, details.method)
        if self._pool.taken >= self._max_calls:
            raise TooManyCalls(self._max_calls)
        return found

    def _refusal(self, path: str, handler: Handler[Q, A], error: Exception) -> Handler[Q, A]:
        """A handler for any kind of call that reads nothing and answers with the error."""
        _, service, method = path.rsplit("/", 2)
        kind = CALL_TYPES[handler.request_streaming, handler.response_streaming]

        def refuse(_messages: object, context: grpc.ServicerContext) -> None:
            with self._rpc.refusing(context, kind, service, method):
                raise error

        refuse.experimental_thread_pool = self._refusers  # type: ignore[attr-defined]  # how grpc is told
        return grpc.stream_stream_rpc_method_handler(refuse)
