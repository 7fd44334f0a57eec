"""Read a dataset's named source from the wire, and report what is wrong with it before any work begins."""

from __future__ import annotations

from enum import Enum

from services.preprocess.domain.bad_rows import BadRows
from services.preprocess.domain.limits import Violations, check_bytes
from services.preprocess.domain.refusals import InvalidRequest, Violation
from services.preprocess.domain.source_errors import SourceError
from services.preprocess.domain.source_location import locate
from services.preprocess.wire.enums import EnumTable
from services.store.records import DatasetSource, LeftOutRecord, RowFilterRecord
from turnloom.errors import InvalidInput
from turnloom.foreign.columns import LONGEST_UNUSED, MOST_UNUSED
from turnloom.reading.chat_formats import Format
from turnloom.reading.filters import RowFilter
from turnloom.v1 import datasets_pb2 as pb


class Deduplicate(Enum):
    """When two conversations are the same: names of turnloom.reading.duplicates.FORMS."""

    EXACT = "exact"
    NORMALIZED = "normalized"


DEDUPLICATE = EnumTable(pb.Deduplicate.DESCRIPTOR, "DEDUPLICATE", Deduplicate)
ROWS = "rows"  #: format of rows that another engine made: nothing is rendered
MAX_URI_BYTES = 4_096
MAX_NAME_BYTES = 256  #: of split, revision, configuration and columns
MAX_COLUMNS = 16
MAX_ROWS = 2**53  #: that a sender may say it left out: more is no number of JSON readers


def source(message: pb.DatasetSource, on_bad: BadRows, roots: tuple[str, ...]) -> DatasetSource:
    """Read a source; the worker finds out whether it exists.

    Raises:
        InvalidRequest: with paths below header.source.
    """
    violations = Violations()
    if not message.uri:
        violations.add("header.source.uri", "is not set; name a hub dataset, or a path or URL below a source root.")
    record = _checked(message, "header.source", on_bad, violations)
    try:
        locate(message.uri, roots, hub=message.format != ROWS)
    except SourceError as error:
        raise InvalidRequest([Violation("header.source.uri", f"{error} {error.hint}".strip())]) from error
    return record


def described(message: pb.DatasetSource, on_bad: BadRows) -> DatasetSource:
    """Read what the sender of a stream reports of its files; none of them is looked up.

    Raises:
        InvalidRequest: with paths below header.sent_from.
    """
    return _checked(message, "header.sent_from", on_bad, Violations())


def _checked(message: pb.DatasetSource, path: str, on_bad: BadRows, violations: Violations) -> DatasetSource:
    """Return the record of a source, if it does not contradict itself."""
    check_bytes(message.uri, f"{path}.uri", MAX_URI_BYTES, violations)
    for name in ("split", "revision", "config", "overlap_split"):
        check_bytes(getattr(message, name), f"{path}.{name}", MAX_NAME_BYTES, violations)
    if len(message.column_mapping) > MAX_COLUMNS:
        violations.add(
            f"{path}.column_mapping", f"has {len(message.column_mapping)} entries; give {MAX_COLUMNS} at most."
        )
    if message.overlap_split and message.test_fraction:
        violations.add(f"{path}.overlap_split", "and test_fraction exclude each other; leave one out.")
    if not 0 <= message.test_fraction < 1:
        violations.add(f"{path}.test_fraction", f"is {message.test_fraction}; give a number from 0 to below 1.")
    same = None
    if message.HasField("deduplicate"):
        same = DEDUPLICATE.required(message.deduplicate, f"{path}.deduplicate", violations)
    violations.refuse()
    asked = _filter(message.filter)
    try:
        asked.check(f"{path}.filter")
        if message.format == ROWS:
            _check_rows(message, path)
        elif message.format:
            Format(message.format, dict(message.column_mapping))
    except InvalidInput as error:
        sentence = f"{error.message} {error.hint}".strip()
        field = error.field if error.field.startswith(path) else f"{path}.{error.field}"
        raise InvalidRequest([Violation(field, sentence)]) from error
    return DatasetSource(
        uri=message.uri,
        split=message.split,
        revision=message.revision,
        config=message.config,
        format=message.format,
        column_mapping=dict(message.column_mapping),
        limit=message.limit,
        deduplicate=same.value if same else "",
        test_fraction=message.test_fraction,
        split_seed=message.split_seed,
        take_test=message.take_test,
        overlap_split=message.overlap_split,
        skip_bad=on_bad is BadRows.SKIP,
        skip_too_long=on_bad is BadRows.SKIP_TOO_LONG,
        filter=RowFilterRecord(
            asked.where, asked.min_messages, asked.max_messages, asked.min_characters, asked.max_characters
        ),
        streaming=message.streaming if message.HasField("streaming") else True,
    )


def _check_rows(message: pb.DatasetSource, path: str) -> None:
    """Refuse a selection among rows that are taken unchanged."""
    chosen = message.limit or message.test_fraction or message.HasField("deduplicate") or message.HasField("filter")
    if chosen or message.split or message.column_mapping or message.overlap_split:
        sentence = f"{ROWS}: they are taken as they are; leave limit, split, filter, deduplication and columns out."
        raise InvalidRequest([Violation(f"{path}.format", sentence)])


def _filter(message: pb.RowFilter) -> RowFilter:
    return RowFilter(
        tuple(message.where),
        message.min_messages,
        message.max_messages,
        message.min_characters,
        message.max_characters,
    )


def source_message(record: DatasetSource) -> pb.DatasetSource:
    """Return the source as clients see it."""
    message = pb.DatasetSource(
        uri=record.uri,
        split=record.split,
        revision=record.revision,
        config=record.config,
        format=record.format,
        column_mapping=record.column_mapping,
        limit=record.limit,
        test_fraction=record.test_fraction,
        split_seed=record.split_seed,
        take_test=record.take_test,
        overlap_split=record.overlap_split,
    )
    if record.deduplicate:
        message.deduplicate = DEDUPLICATE.to_wire[Deduplicate(record.deduplicate)]  # type: ignore[assignment]
    if not record.streaming:
        message.streaming = False
    asked = record.filter
    if asked != RowFilterRecord():
        message.filter.CopyFrom(
            pb.RowFilter(
                where=asked.where,
                min_messages=asked.min_messages,
                max_messages=asked.max_messages,
                min_characters=asked.min_characters,
                max_characters=asked.max_characters,
            )
        )
    return message


def left_out_record(message: pb.LeftOut) -> LeftOutRecord:
    """Return what the sender of a stream reports as left out.

    Raises:
        InvalidRequest: a number that can't count rows, or a field that no sender sets.
    """
    violations = Violations()
    for name in ("filtered", "duplicates", "overlapping", "unreadable"):
        if (number := getattr(message, name)) > MAX_ROWS:
            violations.add(f"end.left_out.{name}", f"is {number}; give {MAX_ROWS} at most.")
    columns = tuple(message.unused_columns)
    if len(columns) > MOST_UNUSED or any(len(column) > LONGEST_UNUSED for column in columns):
        sentence = f"names {len(columns)} columns; send at most {MOST_UNUSED}, of {LONGEST_UNUSED} characters."
        violations.add("end.left_out.unused_columns", sentence)
    for name in ("outside_links", "mixed_splits", "repeated_files"):
        if getattr(message, name):
            violations.add(f"end.left_out.{name}", "is for sources that a worker reads; leave it out.")
    violations.refuse()
    return LeftOutRecord(message.filtered, message.duplicates, message.overlapping, message.unreadable, columns)


def left_out_message(record: LeftOutRecord) -> pb.LeftOut:
    """Return what was left out, as clients see it."""
    return pb.LeftOut(
        filtered=record.filtered,
        duplicates=record.duplicates,
        overlapping=record.overlapping,
        unreadable=record.unreadable,
        unused_columns=record.unused_columns,
        outside_links=record.outside_links,
        mixed_splits=record.mixed_splits,
        repeated_files=record.repeated_files,
    )
