"""Wrap every RPC in one context manager: status, count, time, one log line, error id."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, TypeAlias, TypeVar

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from services.preprocess.api.auth.rate_limit import Rates
from services.preprocess.api.metrics import RpcMetrics
from services.preprocess.api.status_table import internal_status, rich_status, status_of
from services.preprocess.api.work import WorkClock
from services.preprocess.domain.caller import CALLER, Caller
from services.preprocess.domain.refusals import ClientLeft, Draining, ShareTaken, Stalled, TooManyStreams

LOG = logging.getLogger("turnloom.api")
M = TypeVar("M")
Notes: TypeAlias = dict[str, str | int | float]
PACE_SECONDS: Final = 30.0  #: that a stream is held back at once to keep its caller's rate; unary calls are refused
CANCELLATION_SECONDS: Final = 0.2  #: in which news of a cancellation follow the end of its messages


class CallType(Enum):
    """The values of the ecosystem's label grpc_type."""

    UNARY = "unary"
    CLIENT_STREAM = "client_stream"
    SERVER_STREAM = "server_stream"
    BIDI_STREAM = "bidi_stream"


#: Kind by whether the request and the response are streams.
CALL_TYPES: Final = {
    (False, False): CallType.UNARY,
    (True, False): CallType.CLIENT_STREAM,
    (False, True): CallType.SERVER_STREAM,
    (True, True): CallType.BIDI_STREAM,
}


@dataclass(slots=True)
class Call:
    """One running RPC; a servicer may add counts to its log line, but never user text."""

    caller: Caller
    spend: Callable[[int], None]  #: takes conversations from the caller's rate: waits in streams, else RateExceeded
    notes: Notes
    clock: WorkClock  #: ends work that nobody waits for, or that takes too long


@dataclass(frozen=True, slots=True)
class RpcLimits:
    """The limits on the calls of one server."""

    streams: int  #: long calls at once
    streams_per_token: int  #: of these, of one token
    idle_seconds: float  #: after which a stream that sends nothing is ended
    call_seconds: float  #: that one message may be worked on


class Rpc:
    """Wraps the RPCs of all servicers of one server."""

    def __init__(self, metrics: RpcMetrics, rates: Rates, limits: RpcLimits) -> None:
        self._metrics = metrics
        self._rates = rates
        self._limits = limits
        self._streams = threading.BoundedSemaphore(limits.streams)
        self._streams_of: Counter[str] = Counter()  #: by token
        self._draining = threading.Event()
        self._stops: set[threading.Event] = set()
        self._lock = threading.Lock()
        self._running = 0
        self._idle = threading.Condition(self._lock)

    def drain(self, seconds: float) -> None:
        """Refuse new calls, end unbounded ones (watches), and wait for the calls that run.

        Args:
            seconds: to wait at most.
        """
        with self._lock:
            self._draining.set()
            for stop in self._stops:
                stop.set()
            self._idle.wait_for(lambda: not self._running, seconds)

    @contextmanager
    def stopping(self, context: grpc.ServicerContext) -> Iterator[threading.Event]:
        """Yield an event that is set when the client leaves or the server drains; a watch waits on it."""
        stop = threading.Event()
        with self._lock:
            self._stops.add(stop)
        if not context.add_callback(stop.set) or self.draining:
            stop.set()
        try:
            yield stop
        finally:
            with self._lock:
                self._stops.discard(stop)

    def reading(self, context: grpc.ServicerContext, messages: Iterator[M]) -> Iterator[M]:
        """Yield the messages of a client stream, and cancel the stream when idle for idle_seconds.

        Raises:
            Stalled: the stream was idle; the caller must not take what it has read for the whole.
        """
        stalled = threading.Event()

        def give_up() -> None:
            stalled.set()
            context.cancel()

        while True:
            patience = threading.Timer(self._limits.idle_seconds, give_up)
            patience.daemon = True
            patience.start()
            try:
                message = next(messages, None)
            except grpc.RpcError:  # gRPC's way to tell the reader that the call was cancelled
                message = None
                if not stalled.is_set():
                    raise
            finally:
                patience.cancel()
            if stalled.is_set():
                raise Stalled(self._limits.idle_seconds)
            if message is None:
                return
            yield message

    @staticmethod
    def refuse_left(context: grpc.ServicerContext) -> None:
        """Tell a cancelled stream from one whose sender forgot its end; costs CANCELLATION_SECONDS.

        gRPC reports the end of a cancelled stream's messages first and its cancellation after. Between the two, half a
        stream looks like a whole one.

        Raises:
            ClientLeft
        """
        left = threading.Event()
        if not context.add_callback(left.set) or left.wait(CANCELLATION_SECONDS) or not context.is_active():
            raise ClientLeft

    def refuse_draining(self) -> None:
        """End a watch that the drain cut short, so that its client reconnects elsewhere.

        Raises:
            Draining
        """
        if self.draining:
            raise Draining

    @property
    def draining(self) -> bool:
        """Return whether the server is draining."""
        return self._draining.is_set()

    @contextmanager
    def unary(self, context: grpc.ServicerContext, service: str, method: str) -> Iterator[Call]:
        """Handle one short call."""
        with self._answering(context, CallType.UNARY, f"turnloom.v1.{service}", method) as notes:
            yield self._call(context, notes, patience=0.0)

    @contextmanager
    def refusing(self, context: grpc.ServicerContext, kind: CallType, service: str, method: str) -> Iterator[None]:
        """Handle a call that is refused before its servicer is asked; `service` with its package."""
        with self._answering(context, kind, service, method):
            yield

    @contextmanager
    def admitting(self, context: grpc.ServicerContext, kind: CallType, service: str, method: str) -> Iterator[None]:
        """Handle a call whose message is refused while it is parsed; its servicer counts what passes."""
        try:
            yield
        except Exception as error:
            with self.refusing(context, kind, service, method):
                raise error

    @contextmanager
    def stream(self, context: grpc.ServicerContext, kind: CallType, service: str, method: str) -> Iterator[Call]:
        """Handle one long call, which holds a thread: at most max_streams of them run at once."""
        with (
            self._answering(context, kind, f"turnloom.v1.{service}", method) as notes,
            self._a_stream_of(CALLER.get().name),
        ):
            yield self._call(context, notes, patience=PACE_SECONDS)

    @contextmanager
    def _a_stream_of(self, token: str) -> Iterator[None]:
        """Take one slot for a stream, within the token's share.

        Raises:
            ShareTaken, TooManyStreams
        """
        share = self._limits.streams_per_token
        with self._lock:
            if token and self._streams_of[token] >= share:
                raise ShareTaken(token, share, "streaming calls")
            if not self._streams.acquire(blocking=False):
                raise TooManyStreams(self._limits.streams)
            self._streams_of[token] += 1
        try:
            yield
        finally:
            with self._lock:
                self._streams_of -= Counter({token: 1})  # drops tokens that have none
            self._streams.release()

    def _call(self, context: grpc.ServicerContext, notes: Notes, patience: float) -> Call:
        caller = CALLER.get()
        if caller.name:
            notes["token"] = caller.name
        clock = WorkClock(self._limits.call_seconds, partial(self._refuse_unwanted, context))
        return Call(caller, partial(self._spend, context, caller.name, patience), notes, clock)

    @staticmethod
    def _refuse_unwanted(context: grpc.ServicerContext) -> None:
        """End work whose caller cancelled it, disconnected or let its deadline pass.

        Raises:
            ClientLeft
        """
        if not context.is_active():
            raise ClientLeft

    def _spend(self, context: grpc.ServicerContext, caller: str, patience: float, conversations: int) -> None:
        """Delay a stream until its caller's rate allows more; gRPC's flow control holds the client back.

        Raises:
            RateExceeded: it would take longer than `patience` seconds.
            Draining, ClientLeft: while waiting.
        """
        wait = self._rates.take(caller, conversations, patience)
        if wait:
            with self.stopping(context) as stop:
                if stop.wait(wait):
                    self.refuse_draining()
                    raise ClientLeft

    def _begin(self) -> None:
        """Count a running call; refuse one that comes while the server drains.

        Raises:
            Draining
        """
        with self._lock:
            if self.draining:
                raise Draining
            self._running += 1

    def _end(self) -> None:
        with self._lock:
            self._running -= 1
            self._idle.notify_all()

    @contextmanager
    def _answering(self, context: grpc.ServicerContext, kind: CallType, service: str, method: str) -> Iterator[Notes]:
        labels = (kind.value, service, method)
        self._metrics.started.labels(*labels).inc()
        began = time.perf_counter()
        notes: Notes = {}
        code = grpc.StatusCode.OK
        try:
            self._begin()
            try:
                yield notes
            finally:
                self._end()
            if not context.is_active():  # a watch ends normally when its client leaves; no answer was delivered
                code = grpc.StatusCode.CANCELLED
        except GeneratorExit:  # the client left a server stream: gRPC drops the generator
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            code, answer = self._answer(error, context, labels, notes)
            context.abort_with_status(rpc_status.to_status(answer))
        finally:
            seconds = time.perf_counter() - began
            self._metrics.handled.labels(*labels, code.name).inc()
            self._metrics.seconds.labels(*labels).observe(seconds)
            short = service.removeprefix("turnloom.v1.")
            LOG.info("rpc", extra={"service": short, "method": method, "code": code.name, "seconds": seconds, **notes})

    @staticmethod
    def _answer(
        error: Exception, context: grpc.ServicerContext, labels: tuple[str, str, str], notes: Notes
    ) -> tuple[grpc.StatusCode, Status]:
        """Set the status for a foreseen error; log any other under an id, which is the answer."""
        code = status_of(error)
        if code is not None:
            notes["error"] = type(error).__name__
            return code, rich_status(error, code)
        if not context.is_active():  # reading from a client that left raises whatever gRPC raises
            return grpc.StatusCode.CANCELLED, Status(
                code=grpc.StatusCode.CANCELLED.value[0], message="The client left."
            )
        error_id = secrets.token_hex(6)
        notes["error_id"] = error_id
        LOG.error("unforeseen error", exc_info=error, extra={"error_id": error_id, "method": labels[2]})
        return grpc.StatusCode.INTERNAL, internal_status(error_id)
