"""The gRPC status of each domain error, and the details sent with it. A test proves the table total.

The details are google.rpc.BadRequest (fields) and google.rpc.ErrorInfo (the class as UPPER_SNAKE_CASE, a hint).
Where a retry helps, google.rpc.RetryInfo is added. Trailers hold 16 KiB, and gRPC begins to refuse at random above
8 KiB.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from services.preprocess.domain import refusals
from services.preprocess.domain.error_codes import MAX_VIOLATIONS, code_of
from services.preprocess.domain.refusals import Violation
from services.store import errors as store
from turnloom.masks.domain import errors

MAX_SENTENCE_BYTES: Final = 2_000  #: of the status message, as the header encodes it
MAX_DETAIL_BYTES: Final = 3_600  #: of all details; base64 makes 4/3 of it, and the message travels in it once more

STATUS: Final[dict[type[Exception], grpc.StatusCode]] = {
    errors.PreprocessError: grpc.StatusCode.INVALID_ARGUMENT,
    refusals.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelNotUsable: grpc.StatusCode.FAILED_PRECONDITION,
    refusals.UnknownModel: grpc.StatusCode.NOT_FOUND,
    refusals.ModelNotServed: grpc.StatusCode.FAILED_PRECONDITION,
    refusals.WrongState: grpc.StatusCode.FAILED_PRECONDITION,
    refusals.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    refusals.NotPermitted: grpc.StatusCode.PERMISSION_DENIED,
    refusals.TokensUnreadable: grpc.StatusCode.UNAVAILABLE,
    refusals.TooManyCalls: grpc.StatusCode.RESOURCE_EXHAUSTED,
    refusals.TooManyStreams: grpc.StatusCode.RESOURCE_EXHAUSTED,
    refusals.RateExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    refusals.ShareTaken: grpc.StatusCode.RESOURCE_EXHAUSTED,
    refusals.WorkFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    refusals.WorkExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    refusals.Undecodable: grpc.StatusCode.INVALID_ARGUMENT,
    refusals.TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    refusals.Stalled: grpc.StatusCode.CANCELLED,
    refusals.ClientLeft: grpc.StatusCode.CANCELLED,
    refusals.Loading: grpc.StatusCode.UNAVAILABLE,
    refusals.Draining: grpc.StatusCode.UNAVAILABLE,
    refusals.SamplingDisabled: grpc.StatusCode.FAILED_PRECONDITION,
    refusals.NotSampled: grpc.StatusCode.FAILED_PRECONDITION,
    refusals.HostBusy: grpc.StatusCode.UNAVAILABLE,
    refusals.SampleFailed: grpc.StatusCode.UNAVAILABLE,
    store.RedisUnavailable: grpc.StatusCode.UNAVAILABLE,
    store.RedisForbids: grpc.StatusCode.UNAVAILABLE,
    store.StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    store.StoreFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    store.StoreRefused: grpc.StatusCode.UNAVAILABLE,
    store.SchemaMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    store.NotFound: grpc.StatusCode.NOT_FOUND,
    store.IllegalEdge: grpc.StatusCode.FAILED_PRECONDITION,
    store.RequestMismatch: grpc.StatusCode.ALREADY_EXISTS,
    store.InUse: grpc.StatusCode.FAILED_PRECONDITION,
    store.CheckpointNotUsable: grpc.StatusCode.FAILED_PRECONDITION,
    store.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    store.BadToken: grpc.StatusCode.INVALID_ARGUMENT,
    store.NoHost: grpc.StatusCode.FAILED_PRECONDITION,
    store.QuotaReached: grpc.StatusCode.RESOURCE_EXHAUSTED,
    store.Fenced: grpc.StatusCode.ABORTED,
    store.StepOutOfOrder: grpc.StatusCode.ABORTED,
    store.TicketFailed: grpc.StatusCode.UNAVAILABLE,
    store.TicketTimeout: grpc.StatusCode.DEADLINE_EXCEEDED,
    store.Corrupt: grpc.StatusCode.DATA_LOSS,
}
#: What to do about errors whose sentence, made far from any user, says only what happened.
HINTS: Final[dict[type[Exception], str]] = {
    refusals.Loading: "Wait until grpc.health.v1 says SERVING for turnloom.v1.PreprocessService.",
    refusals.SamplingDisabled: "`turnloom adapter download JOB` fetches it; docs/guide.md shows how to load it.",
    refusals.UnknownModel: "List the served models with `turnloom models`.",
    refusals.Unauthenticated: "Tokens are made with `python -m services.preprocess tokens create` on the server.",
    refusals.TooLarge: "Send less at once; GetServerInfo has the limits of messages and batches.",
    store.RedisUnavailable: "Check that Redis runs and is what TURNLOOM_REDIS_URL names; nothing needs to be undone.",
    store.StoreUnavailable: "Check TURNLOOM_STORE_URL and its credentials.",
    store.StoreRefused: "Give the API a key of the object store that may read and write there.",
    store.StoreFull: "Free space in the store, or delete datasets and jobs.",
    store.RedisForbids: "Its administrator can mend that while everything runs; nothing needs to be undone.",
    store.SchemaMismatch: "Run services of one version, or give this one a Redis database of its own.",
    store.NotFound: "Look at the spelling; `turnloom jobs`, `checkpoints`, `dataset list`, `sweeps` show what exists.",
    store.IllegalEdge: "`turnloom job show` or `turnloom dataset show` (GetJob, GetDataset) tells the present state.",
    store.InUse: "Wait for what uses it to end, or cancel that first.",
    store.CheckpointNotUsable: "`turnloom checkpoints JOB` lists those that can be used.",
    store.BadToken: "Begin again without it.",
    store.TicketTimeout: "See whether the host's worker is busy or gone: `turnloom hosts`.",
    store.NoHost: "`turnloom doctor` shows the hosts and what they serve.",
    store.QuotaReached: "Wait until some have begun, or cancel some; `turnloom queue` shows them.",
    store.Corrupt: "The file in the store was changed or damaged; make it again.",
    store.OutOfRange: "Watch from the beginning with an empty start_event_id.",
}
#: When to try again. 0: at once, but with less. RateExceeded says it itself.
RETRY_SECONDS: Final[dict[type[Exception], int]] = {
    refusals.Loading: 2,
    refusals.Draining: 2,
    store.RedisUnavailable: 5,
    store.StoreUnavailable: 5,
    store.QuotaReached: 60,
    refusals.TokensUnreadable: 5,
    refusals.TooManyCalls: 1,
    refusals.TooManyStreams: 5,
    refusals.ShareTaken: 1,
    refusals.WorkFull: 2,
    refusals.HostBusy: 30,
    refusals.SampleFailed: 10,
    refusals.TooLarge: 0,
}


def status_of(error: Exception) -> grpc.StatusCode | None:
    """Return the status of the nearest class in the table, or None for an unforeseen error."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)


def violations_of(error: Exception) -> Sequence[Violation]:
    """Return the fields that an error names."""
    if isinstance(error, refusals.InvalidRequest):
        return error.violations
    if isinstance(error, refusals.TooLarge):
        return (error.violation,)
    if isinstance(error, errors.InvalidOption):  # wrong for every conversation, so the whole call ends with it
        return (Violation(f"options.{error.field}" if error.field else "options", str(error)),)
    return ()


def rich_status(error: Exception, code: grpc.StatusCode) -> Status:
    """Return the full status for an error of the table, within the bounds of trailers."""
    violations = violations_of(error)
    info = ErrorInfo(reason=code_of(error).upper(), domain="turnloom")
    if violations:
        info.metadata["param"] = violations[0].field[:256]
    if hint := HINTS.get(type(error)):
        info.metadata["hint"] = hint
    details: list[AnyMessage] = [_packed(info)]
    retry = math.ceil(error.wait) if isinstance(error, refusals.RateExceeded) else RETRY_SECONDS.get(type(error))
    if retry is not None:
        details.append(_packed(RetryInfo(retry_delay=Duration(seconds=retry))))
    said = whole_sentence(str(error)) if isinstance(error, store.StoreError) else str(error)
    sentence = cut(said, MAX_SENTENCE_BYTES)
    if violations:
        details.append(_packed(_bad_request(violations, MAX_DETAIL_BYTES - len(sentence.encode()))))
    return Status(code=code.value[0], message=sentence, details=details)


def whole_sentence(text: str) -> str:
    """Return the store's remark, which reads on in logs, as a sentence of its own.

    Names and addresses keep their case.
    """
    first = text.partition(" ")[0]
    began = text[:1].upper() + text[1:] if re.fullmatch(r"[a-z]+,?", first) else text
    return began if began.endswith((".", "!", "?")) else f"{began}."


def internal_status(error_id: str) -> Status:
    """Return a fixed sentence for an unforeseen error, because its own text may hold anything."""
    info = ErrorInfo(reason="INTERNAL", domain="turnloom", metadata={"error_id": error_id})
    sentence = f"The server met an error that it did not foresee (error id {error_id}); its log says where."
    return Status(code=grpc.StatusCode.INTERNAL.value[0], message=sentence, details=[_packed(info)])


def _bad_request(violations: Sequence[Violation], budget: int) -> BadRequest:
    """Return as many violations as fit, at most 50; the first always fits."""
    message = BadRequest()
    for violation in violations[:MAX_VIOLATIONS]:
        message.field_violations.add(field=cut(violation.field, 256), description=cut(violation.description, 600))
        if len(message.field_violations) > 1 and message.ByteSize() > budget:
            del message.field_violations[-1]
            break
    return message


def _packed(message: BadRequest | ErrorInfo | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def cut(text: str, limit: int) -> str:
    """Return text of at most `limit` bytes once percent-encoded, as the grpc-message header is."""
    if len(text) * 9 <= limit or len(quote(text)) <= limit:
        return text
    kept = text[:limit]
    while len(quote(kept)) > limit - 3:
        kept = kept[: int(len(kept) * 0.9)]
    return kept + "..."
