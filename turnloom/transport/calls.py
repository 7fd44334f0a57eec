"""The gRPC edge: one channel, a deadline on every call, and each status as a class of errors.py."""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import grpc

from turnloom import errors
from turnloom.transport.handshake import check_files, with_tls, without_tls
from turnloom.transport.uploads import Upload

MAX_MESSAGE: Final = 64 * 1024 * 1024  #: bytes, both directions (the contract's limit)
MAX_TOKEN: Final = 4096  #: characters; servers refuse all headers of a call beyond 8 to 16 KiB
CONNECT_SECONDS: Final = 8.0  #: how long a first connection may take before we say that nobody is there
CLOSE_SECONDS: Final = 2.0  #: for calls to end, which they do at once
WRITE_ADDRESS: Final = "Write --address or TURNLOOM_ADDRESS as HOST:PORT, without http://."
DETAILS_KEY: Final = "grpc-status-details-bin"

#: RPCs that may be sent twice: they change nothing, or carry a request_id.
REPEATABLE: Final = {
    "PreprocessService": ("GetServerInfo", "ListModels", "Preprocess", "PreviewConversation"),
    "DatasetService": ("GetDataset", "ListDatasets"),
    "FineTuningService": (
        *("CreateJob", "GetJob", "ListJobs", "ListEvents", "ListSteps", "GetEvaluation"),
        *("ListReplies", "ListCheckpoints", "CreateSweep", "GetSweep", "ListSweeps", "ListQueue", "ListHosts"),
    ),
}

CLASSES: Final[dict[grpc.StatusCode, type[errors.TurnloomError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.ABORTED: errors.FailedPrecondition,
    grpc.StatusCode.OUT_OF_RANGE: errors.OutOfRange,
    grpc.StatusCode.PERMISSION_DENIED: errors.NotAllowed,
    grpc.StatusCode.UNAUTHENTICATED: errors.NotAllowed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unimplemented,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.DeadlineExceeded,
    grpc.StatusCode.INTERNAL: errors.ServerFault,
    grpc.StatusCode.UNKNOWN: errors.ServerFault,
    grpc.StatusCode.DATA_LOSS: errors.ServerFault,
}

#: How gRPC's own sentences begin when the connection, not the server, is the trouble.
BROKEN_CONNECTION: Final = (
    *("failed to connect", "connections to all backends failing", "socket closed", "recvmsg", "sendmsg", "goaway"),
    *("connection reset", "broken pipe", "stream removed", "keepalive", "dns resolution failed", "channel"),
    *("transport closed", "connection refused", "empty update", "endpoint closing", "ssl_error", "handshak", "tls"),
    *("end of tcp stream", "rst_stream", "error accepting", "received http2"),
)


Q = TypeVar("Q")  # what is sent
A = TypeVar("A")  # what comes back
Unary: TypeAlias = "grpc.UnaryUnaryMultiCallable[Q, A]"
ServerStream: TypeAlias = "grpc.UnaryStreamMultiCallable[Q, A]"
ClientStream: TypeAlias = "grpc.StreamUnaryMultiCallable[Q, A]"
BothStreams: TypeAlias = "grpc.StreamStreamMultiCallable[Q, A]"


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS settings, with the client's own certificate for mTLS; files are PEM."""

    ca: Path | None = None  #: authority that signed the server's certificate; None: the system's
    certificate: Path | None = None  #: of this client
    key: Path | None = None  #: of this client

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the certificate files.

        Raises:
            InvalidInput: a file can't be read or is no PEM, a key does not belong to its certificate or has a
                passphrase, or only one of certificate and key is given.
        """
        if (self.certificate is None) != (self.key is None):
            raise errors.InvalidInput("mTLS needs a certificate and its key.", hint="Give both, or neither.")
        parts = _pem(self.ca), _pem(self.key), _pem(self.certificate)
        check_files(self.ca, self.certificate, self.key)
        return grpc.ssl_channel_credentials(*parts)


def _pem(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise errors.InvalidInput(f"{path}: {error.strerror or error}.", hint="Name a readable PEM file.") from error


def sendable(token: str) -> bool:
    """Return whether a header can carry a token."""
    return token.isascii() and token.isprintable() and len(token) <= MAX_TOKEN


def _bearer(token: str) -> str:
    """Return the header of a token, or raise InvalidInput that does not repeat it."""
    if not sendable(token):
        raise errors.InvalidInput(
            f"The token is nothing that a header can carry: printable ASCII, at most {MAX_TOKEN:,} characters.",
            hint="Give it as `tokens create` printed it, without a line end.",
            field="token",
        )
    return f"Bearer {token}"


class Connection:
    """A channel to one server; opens with the first call and is thread-safe."""

    def __init__(self, address: str, token: str | None, tls: Tls | None) -> None:
        """Prepare the channel.

        Raises:
            InvalidInput: the token can't be sent, or a file of `tls` can't be used.
        """
        self.address = address
        self.metadata = (("authorization", _bearer(token)),) if token else ()
        arguments = _arguments(address)
        self.channel: grpc.Channel = (
            grpc.secure_channel(address, tls.credentials(), arguments)
            if tls
            else grpc.insecure_channel(address, arguments)
        )
        self._tls = tls
        self._ready = threading.Event()

    def close(self) -> None:
        """End all calls and close the connection.

        gRPC waits here for the end of every call. One that Ctrl-C broke off while gRPC began it has nobody to end it.
        """
        closing = threading.Thread(target=self.channel.close, name="close", daemon=True)
        try:
            closing.start()
        except RuntimeError:  # the interpreter ends, and starts no thread any more
            self.channel.close()
        else:
            closing.join(CLOSE_SECONDS)

    def open(self) -> None:
        """Wait until the server answers; only the first call waits.

        Raises:
            ServerUnreachable: the connection is refused or takes over 8 seconds; names TLS where that is at fault.
        """
        if self._ready.is_set():
            return
        failed = threading.Event()
        settled = threading.Event()

        def listen(state: grpc.ChannelConnectivity) -> None:
            if state is grpc.ChannelConnectivity.READY:
                self._ready.set()
            elif state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                failed.set()
            if self._ready.is_set() or failed.is_set():
                settled.set()

        self.channel.subscribe(listen, try_to_connect=True)
        try:
            settled.wait(CONNECT_SECONDS)
        finally:
            self.channel.unsubscribe(listen)
        if not self._ready.is_set():
            tls = self._tls
            found = with_tls(self.address, tls.ca, tls.certificate, tls.key) if tls else without_tls(self.address)
            if found is not None:
                raise errors.ServerUnreachable(found.sentence, hint=found.hint)
            raise unreachable(self.address, "" if failed.is_set() else f" within {CONNECT_SECONDS:g} s")

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Connect where needed, and translate gRPC errors into ours."""
        self.open()
        try:
            yield
        except grpc.RpcError as error:
            raise translate(error, self.address) from error

    def ask(self, method: Unary[Q, A], request: Q, seconds: float) -> A:
        """Send one request and return its answer."""
        with self.speaking():
            return method(request, timeout=seconds, metadata=self.metadata)

    def listen(self, method: ServerStream[Q, A], request: Q, seconds: float) -> Iterator[A]:
        """Yield the messages of a server stream; end the call when the reader stops reading."""
        with self.speaking():
            call = method(request, timeout=seconds, metadata=self.metadata)
            try:
                yield from call
            finally:
                call.cancel()

    def tell(self, method: ClientStream[Q, A], requests: Iterable[Q], seconds: float) -> A:
        """Send a stream of requests and return the answer; errors raised while making requests pass unchanged."""
        upload = Upload(requests)
        with self.speaking():
            call = method.future(iter(upload), timeout=seconds, metadata=self.metadata)
            upload.bind(call.cancel)
            try:
                return call.result()
            except (grpc.RpcError, grpc.FutureCancelledError):
                if upload.error is not None:
                    raise upload.error from None
                raise
            finally:
                call.cancel()

    def converse(self, method: BothStreams[Q, A], requests: Iterable[Q], seconds: float) -> Iterator[A]:
        """Exchange a stream each way; errors raised while making requests pass unchanged."""
        upload = Upload(requests)
        with self.speaking():
            call = method(iter(upload), timeout=seconds, metadata=self.metadata)
            upload.bind(call.cancel)
            try:
                yield from call
            except grpc.RpcError:
                if upload.error is not None:
                    raise upload.error from None
                raise
            finally:
                call.cancel()


def _arguments(address: str) -> list[tuple[str, str | int]]:
    retry = {
        "maxAttempts": 3,
        "initialBackoff": "0.2s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    names = [
        {"service": f"turnloom.v1.{service}", "method": method}
        for service, methods in REPEATABLE.items()
        for method in methods
    ]
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE),
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.service_config", json.dumps({"methodConfig": [{"name": names, "retryPolicy": retry}]})),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 5000),  # is also the limit of one attempt to connect
        ("grpc.max_reconnect_backoff_ms", 3000),
        ("grpc.enable_http_proxy", 0 if _loopback(address) else 1),
    ]


def _loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def unreachable(address: str, when: str = "") -> errors.ServerUnreachable:
    """Return the error for a server that does not answer."""
    known = "Start one with `turnloom up`, or name another with --address or TURNLOOM_ADDRESS."
    return errors.ServerUnreachable(
        f"No Turnloom server answers at {address}{when}.",
        hint=known if host_and_port(address) else WRITE_ADDRESS,
        code=grpc.StatusCode.UNAVAILABLE.name,
    )


def host_and_port(address: str) -> tuple[str, int] | None:
    """Split HOST:PORT into its parts; None: the address does not have this form."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if "/" in host or not (host and port.isdecimal() and 0 < int(port) < 65536):
        return None
    return host, int(port)


def translate(error: grpc.RpcError, address: str) -> errors.TurnloomError:
    """Return the exception for a failed call, with the server's own sentence, fields and hint."""
    assert isinstance(error, grpc.Call)  # every RpcError that grpc raises from a call is one
    code, sentence = error.code(), error.details() or ""
    violations, reason, hint, param, retry_after = _details(error)
    if code is grpc.StatusCode.UNAVAILABLE and not reason and sentence.lower().startswith(BROKEN_CONNECTION):
        return unreachable(address)
    if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED) and not reason:
        return errors.DeadlineExceeded(
            f"The server at {address} did not answer in time.", hint="Try again, or look at its log.", code=code.name
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and not reason:  # gRPC's own limit on messages
        hint = f"A message holds at most {MAX_MESSAGE // 2**20} MiB; send fewer or shorter conversations at once."
    if not sentence:
        sentence = f"The server at {address} answered {code.name} without a sentence."
    if code is grpc.StatusCode.UNIMPLEMENTED and sentence.lower() in ("method not found!", "unknown method"):
        sentence = f"The server at {address} does not know this call."
        hint = "Compare versions with `turnloom doctor`; the server may be older than this client."
    return CLASSES[code](
        sentence,
        hint=hint,
        field=violations[0].field if violations else param,
        code=reason or code.name,
        violations=violations,
        retry_after=retry_after,
    )


def _details(error: grpc.Call) -> tuple[list[errors.Violation], str, str, str, float | None]:
    """Return violations, reason, hint, parameter and wait in seconds from the google.rpc.Status that a server sent."""
    from google.rpc import error_details_pb2, status_pb2  # noqa: PLC0415  # 20 ms, and only errors need them

    violations: list[errors.Violation] = []
    reason = hint = param = ""
    wait = None
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            status.ParseFromString(value)
    for detail in status.details:
        bad, info, retry = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad):
            violations += [errors.Violation(v.field, v.description, v.reason) for v in bad.field_violations]
        elif detail.Unpack(info):
            reason, hint, param = info.reason, info.metadata.get("hint", ""), info.metadata.get("param", "")
        elif detail.Unpack(retry):
            wait = retry.retry_delay.ToTimedelta().total_seconds()
    return violations, reason, hint, param, wait
