"""A dataset's named source from the wire: what is wrong with it is said before anything is begun. Reads no file."""

from __future__ import annotations

from enum import Enum

from services.preprocess.enum_wire import EnumTable
from services.preprocess.limits import Violations, check_bytes
from services.preprocess.refusals import InvalidRequest, Violation
from services.preprocess.sources.errors import SourceError
from services.preprocess.sources.locating import locate
from services.store.records import DatasetSource
from turnloom.errors import InvalidInput
from turnloom.formats import Format
from turnloom.v1 import datasets_pb2 as pb


class Deduplicate(Enum):
    """When two conversations are the same: names of sources.dedup.FORMS."""

    EXACT = "exact"
    NORMALIZED = "normalized"


DEDUPLICATE = EnumTable(pb.Deduplicate.DESCRIPTOR, "DEDUPLICATE", Deduplicate)
MAX_URI_BYTES = 4_096
MAX_NAME_BYTES = 256  #: of split, revision, configuration and columns
MAX_COLUMNS = 16


def source(message: pb.DatasetSource, skip_bad: bool, roots: tuple[str, ...]) -> DatasetSource:
    """Read a source; that it exists is found out by the worker.

    Raises:
        InvalidRequest: with paths below header.source.
    """
    violations = Violations()
    if not message.uri:
        violations.add("header.source.uri", "is not set; name a hub dataset, or a path or URL below a source root.")
    check_bytes(message.uri, "header.source.uri", MAX_URI_BYTES, violations)
    for name in ("split", "revision", "config"):
        check_bytes(getattr(message, name), f"header.source.{name}", MAX_NAME_BYTES, violations)
    if len(message.column_mapping) > MAX_COLUMNS:
        violations.add(
            "header.source.column_mapping", f"has {len(message.column_mapping)} entries; {MAX_COLUMNS} are taken."
        )
    if not 0 <= message.test_fraction < 1:
        violations.add("header.source.test_fraction", f"is {message.test_fraction}; 0 <= test_fraction < 1 is needed.")
    same = None
    if message.HasField("deduplicate"):
        same = DEDUPLICATE.required(message.deduplicate, "header.source.deduplicate", violations)
    violations.refuse()
    try:
        locate(message.uri, roots)
        if message.format:
            Format(message.format, dict(message.column_mapping))
    except SourceError as error:
        raise InvalidRequest([Violation("header.source.uri", f"{error} {error.hint}".strip())]) from error
    except InvalidInput as error:
        sentence = f"{error.message} {error.hint}".strip()
        raise InvalidRequest([Violation(f"header.source.{error.field}", sentence)]) from error
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
        skip_bad=skip_bad,
    )


def source_message(record: DatasetSource) -> pb.DatasetSource:
    """The source as clients see it."""
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
    )
    if record.deduplicate:
        message.deduplicate = DEDUPLICATE.to_wire[Deduplicate(record.deduplicate)]  # type: ignore[assignment]
    return message
