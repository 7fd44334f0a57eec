"""Convert dataset records and headers between the wire and the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from services.preprocess.domain.bad_rows import BadRows
from services.preprocess.domain.error_codes import code_of
from services.preprocess.domain.limits import (
    MAX_DISPLAY_NAME_BYTES,
    MAX_REQUEST_ID_BYTES,
    Violations,
    check_bytes,
    check_labels,
    check_name,
)
from services.preprocess.wire.enums import EnumTable
from services.preprocess.wire.issues import field_of
from services.preprocess.wire.options import options_from_json
from services.preprocess.wire.source import left_out_message, source_message
from services.store.records import (
    DatasetRecord,
    DatasetState,
    ErrorRecord,
    Histogram,
    IssueRecord,
    LeftOutRecord,
    WarningRecord,
)
from turnloom.masks.domain.errors import PreprocessError
from turnloom.plural import counted
from turnloom.v1 import datasets_pb2 as pb
from turnloom.v1 import types_pb2

STATE: Final = EnumTable(pb.DatasetState.DESCRIPTOR, "DATASET_STATE", DatasetState)
BAD_ROWS: Final = EnumTable(pb.BadRows.DESCRIPTOR, "BAD_ROWS", BadRows)


def bad_rows(header: pb.CreateDatasetHeader) -> BadRows:
    """Check everything of the header but the options, and return what happens to bad rows.

    Raises:
        InvalidRequest
    """
    violations = Violations()
    check_name(header.display_name, "header.display_name", MAX_DISPLAY_NAME_BYTES, violations)
    check_bytes(header.request_id, "header.request_id", MAX_REQUEST_ID_BYTES, violations)
    check_labels(header.metadata, "header.metadata", violations)
    chosen = BAD_ROWS.optional(
        header.HasField("bad_rows"), header.bad_rows, BadRows.FAIL, "header.bad_rows", violations
    )
    violations.refuse()
    return chosen


def state_filter(number: int) -> DatasetState | None:
    """Return the state that a list is narrowed to; UNSPECIFIED is all.

    Raises:
        InvalidRequest: an unknown number.
    """
    violations = Violations()
    state = None if number == 0 else STATE.required(number, "state", violations)
    violations.refuse()
    return state


def issue_record(index: int, identifier: str, error: PreprocessError) -> IssueRecord:
    """Return the issue of conversation `index`, as the dataset stores it."""
    return IssueRecord(
        conversation_index=index,
        code=code_of(error),
        message=str(error),
        field=field_of(error),
        message_index=error.message_index,
        conversation_id=identifier[:256],
    )


def dataset(record: DatasetRecord) -> pb.Dataset:
    """Return the record as clients see it; the path of its file stays internal."""
    message = pb.Dataset(
        id=record.id,
        display_name=record.display_name,
        state=STATE.to_wire[record.state],  # type: ignore[arg-type]  # mypy-protobuf types enum values apart from int
        sha256=record.sha256,
        options=options_from_json(json.loads(record.options_json)),
        conversations=record.conversations,
        examples=record.examples,
        tokens=record.tokens,
        loss_tokens=record.loss_tokens,
        weight_sum=record.weight_sum,
        target_bytes=record.target_bytes,
        truncated_examples=record.truncated_examples,
        unchecked_examples=record.unchecked_examples,
        skipped_conversations=record.skipped_conversations,
        too_long_conversations=record.too_long_conversations,
        issues=[_issue(item) for item in record.issues],
        error=error(record.error),
        owner=record.owner,
        metadata=record.metadata,
        create_time=timestamp(record.create_time),
        ready_time=timestamp(record.ready_time),
        template_sha256=record.template_sha256,
        tokenizer_sha256=record.tokenizer_sha256,
        length_histogram=histogram_message(record.length_histogram),
        loss_token_histogram=histogram_message(record.loss_token_histogram),
        warnings=_warnings(record.warnings),
        conversations_read=record.conversations_read,
        shards=record.shards,
        shards_done=record.shards_done,
    )
    if record.source is not None:
        message.source.CopyFrom(source_message(record.source))
    if record.source is not None or record.left_out != LeftOutRecord():
        message.left_out.CopyFrom(left_out_message(record.left_out))
    return message


def _issue(record: IssueRecord) -> types_pb2.Issue:
    return types_pb2.Issue(
        conversation_index=record.conversation_index,
        conversation_id=record.conversation_id,
        code=record.code,
        message=record.message,
        field=record.field,
        message_index=record.message_index,
    )


def _warnings(records: Sequence[WarningRecord]) -> list[types_pb2.Warning]:
    return [
        types_pb2.Warning(
            conversation_index=item.conversation_index,
            message=f"{item.message} (and {counted(item.more, 'more conversation')})" if item.more else item.message,
        )
        for item in records
    ]


def histogram_message(record: Histogram) -> types_pb2.Histogram | None:
    """Return the counts by size, or None where there are none."""
    if not record.counts:
        return None
    return types_pb2.Histogram(upper_bounds=record.upper_bounds, counts=record.counts)


def error(record: ErrorRecord | None) -> types_pb2.Error | None:
    """Return why something failed, or None where it did not."""
    if record is None:
        return None
    return types_pb2.Error(code=record.code, message=record.message, param=record.param, hint=record.hint)


def timestamp(seconds: float) -> Timestamp | None:
    """Return seconds since 1970 as a timestamp; 0 is "not yet"."""
    if not seconds:
        return None
    moment = Timestamp()
    moment.FromNanoseconds(round(seconds * 1e6) * 1000)  # microseconds: all that a double of this size holds
    return moment
