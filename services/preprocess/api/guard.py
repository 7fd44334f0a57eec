"""Admission in front of every RPC: authenticate, authorize, and check capacity.

A call refused here has no byte of its message read. Refusals are answered by separate threads, so that they arrive
while every handler thread is busy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from services.preprocess.api.auth.bearer_tokens import TokenBook
from services.preprocess.api.auth.scopes import NEEDS, Need, authenticate, check_scope
from services.preprocess.api.parsing import parse
from services.preprocess.api.pools import CountedPool, FairPool
from services.preprocess.api.rpc import CALL_TYPES, CallType, Rpc
from services.preprocess.api.work import ByteBudget
from services.preprocess.domain.caller import ANYBODY, CALLER, Caller
from services.preprocess.domain.refusals import ShareTaken, TooManyCalls, Undecodable

REFUSERS: Final = 2  #: threads that do nothing but refuse
HEALTH_THREADS: Final = 2  #: that answer health checks while every other thread is busy
WORK_THREADS: Final = 8  #: for calls that bring conversations in one message; half of them for one token at most
CONTROL_THREADS: Final = 8  #: for short calls, so that records can be read and jobs cancelled at any time
#: Calls of ours, whose messages are parsed here.
OURS: Final = "/turnloom.v1."
#: Short calls by their form that work on conversations or wait for a host.
WORKING: Final = frozenset({"Preprocess", "PreviewConversation", "Diagnose", "Sample"})
Q = TypeVar("Q")
A = TypeVar("A")
Handler: TypeAlias = "grpc.RpcMethodHandler[Q, A]"


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The limits on concurrent calls of a server."""

    calls: int  #: that run or wait, the short ones left out
    calls_per_token: int  #: of these, of one token
    budget: ByteBudget  #: bytes of messages in work


class Guard(grpc.ServerInterceptor):
    """Passes a call on with its caller set, or replaces its handler by a refusal."""

    def __init__(self, rpc: Rpc, book: TokenBook | None, pool: CountedPool, limits: CallLimits) -> None:
        """Guard one server.

        Args:
            rpc: counts, logs and answers refusals.
            book: tokens; None: every caller may do everything.
            pool: the server's handler threads, which hold streams.
            limits: calls and bytes at once.
        """
        self._rpc = rpc
        self._book = book
        self._pool = pool
        self._limits = limits
        # Each receives one message at a time, of up to 64 MiB, before its size is known.
        threads = min(WORK_THREADS, pool.threads)
        self._work = FairPool(threads, per_token=max(1, threads // 2))
        self._refusers = ThreadPoolExecutor(REFUSERS, thread_name_prefix="refuse")
        self._health = ThreadPoolExecutor(HEALTH_THREADS, thread_name_prefix="health")
        self._control = CountedPool(CONTROL_THREADS)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler[Q, A] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler[Q, A] | None:
        """Decide about one call; gRPC asks in its only serving thread, before the message is read."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        if NEEDS.get(method) is Need.NOTHING:
            return in_pool(handler, self._health)
        try:
            CALLER.set(self._admitted(handler_call_details))
        except Exception as error:  # whatever the error, the call does not pass
            return self._refusal(method, handler, error)
        if not method.startswith(OURS):
            return handler
        decoded = self._decoding(method, handler)
        if handler.request_streaming or handler.response_streaming:
            return decoded
        return in_pool(decoded, self._work if method.rpartition("/")[2] in WORKING else self._control)

    @property
    def busy(self) -> int:
        """Return the number of calls that run or wait, without the short ones."""
        return self._pool.taken + self._work.taken

    def close(self) -> None:
        """Stop the guard's own threads."""
        for pool in (self._refusers, self._health, self._control, self._work):
            pool.shutdown(wait=False, cancel_futures=True)

    def _admitted(self, details: grpc.HandlerCallDetails) -> Caller:
        found = ANYBODY if self._book is None else authenticate(details.invocation_metadata, self._book.find)
        check_scope(found, details.method)
        limits, pools = self._limits, (self._pool, self._work)
        if found.name and sum(pool.taken_by(found.name) for pool in pools) >= limits.calls_per_token:
            raise ShareTaken(found.name, limits.calls_per_token, "calls")
        if self.busy >= limits.calls:
            raise TooManyCalls(limits.calls)
        return found

    def _decoding(self, path: str, handler: Handler[Q, A]) -> Handler[Q, A]:
        """Wrap the handler to parse raw bytes within the budget, and refuse what can't be parsed."""
        _, service, method = path.rsplit("/", 2)
        kind = CALL_TYPES[handler.request_streaming, handler.response_streaming]
        message_type = cast("type[Any]", handler.request_deserializer.__self__)  # type: ignore[union-attr]  # FromString
        inner = cast("Callable[..., Any]", behaviour_of(handler))

        def read(raw: bytes) -> Q:
            try:
                return cast(Q, parse(message_type, raw))
            except DecodeError as error:
                raise Undecodable(f"{service}/{method}") from error

        def unary(raw: bytes, context: grpc.ServicerContext) -> A:
            with ExitStack() as held:
                with self._rpc.admitting(context, kind, service, method):
                    held.enter_context(self._limits.budget.hold(len(raw), CALLER.get().name))
                    message = read(raw)
                answer: A = inner(message, context)
                return answer

        def server_stream(raw: bytes, context: grpc.ServicerContext) -> Iterator[A]:
            with self._rpc.admitting(context, kind, service, method):
                message = read(raw)
            yield from inner(message, context)

        def messages(raws: Iterator[bytes]) -> Iterator[Q]:
            for raw in raws:
                with self._limits.budget.hold(len(raw), CALLER.get().name):
                    yield read(raw)

        def client_stream(raws: Iterator[bytes], context: grpc.ServicerContext) -> A:
            answer: A = inner(messages(raws), context)
            return answer

        def bidi_stream(raws: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[A]:
            yield from inner(messages(raws), context)

        made: dict[CallType, Callable[[], Handler[Q, A]]] = {
            CallType.UNARY: partial(grpc.unary_unary_rpc_method_handler, unary),
            CallType.SERVER_STREAM: partial(grpc.unary_stream_rpc_method_handler, server_stream),
            CallType.CLIENT_STREAM: partial(grpc.stream_unary_rpc_method_handler, client_stream),
            CallType.BIDI_STREAM: partial(grpc.stream_stream_rpc_method_handler, bidi_stream),
        }
        return made[kind](response_serializer=handler.response_serializer)  # type: ignore[call-arg]

    def _refusal(self, path: str, handler: Handler[Q, A], error: Exception) -> Handler[Q, A]:
        """Return a handler for any kind of call that reads nothing and answers with the error."""
        _, service, method = path.rsplit("/", 2)
        kind = CALL_TYPES[handler.request_streaming, handler.response_streaming]

        def refuse(_messages: object, context: grpc.ServicerContext) -> None:
            with self._rpc.refusing(context, kind, service, method):
                raise error

        return in_pool(grpc.stream_stream_rpc_method_handler(refuse), self._refusers)


def behaviour_of(handler: Handler[Q, A]) -> object:
    """Return the function that a handler calls, whatever its form."""
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def in_pool(handler: Handler[Q, A], pool: ThreadPoolExecutor) -> Handler[Q, A]:
    """Return the handler, run by threads of another pool than the server's."""
    behaviour = cast("Callable[..., Any]", behaviour_of(handler))

    @functools.wraps(behaviour)
    def run(request: Any, context: grpc.ServicerContext) -> Any:
        return behaviour(request, context)

    run.experimental_thread_pool = pool  # type: ignore[attr-defined]  # how grpc is told
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(run, handler.request_deserializer, handler.response_serializer)
