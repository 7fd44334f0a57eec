"""Make one shard into rows, in bounded memory: read, convert, preprocess, write."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from services.preprocess.datasets.build import DatasetBuild, Totals
from services.preprocess.datasets.sources.converting import conversation_of
from services.preprocess.datasets.sources.lease import Lease
from services.preprocess.datasets.sources.pieces import Shard
from services.preprocess.datasets.sources.reading import read
from services.preprocess.datasets.sources.sizes import SizeLimit, refuse_larger
from services.preprocess.domain.bad_rows import BadRows
from services.preprocess.wire.dataset import issue_record
from services.store.records import IssueRecord
from services.store.shards.files import ShardFile, ShardWriter
from turnloom.foreign.columns import UnusedColumns
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import InvalidOption, PreprocessError
from turnloom.masks.domain.example import PreprocessedConversation
from turnloom.masks.domain.options import Options
from turnloom.masks.model import Model
from turnloom.masks.pipeline import preprocess_each
from turnloom.reading.chat_formats import Format
from turnloom.reading.rows import RawRow

CHUNK: Final = 128  #: conversations preprocessed at once


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The outcome of one shard."""

    file: ShardFile | None = None  #: of its rows; None: there are none
    read: int = 0  #: rows that were wanted
    size: int = 0  #: bytes of these as messages of the contract
    totals: Totals = field(default_factory=Totals)
    bad: IssueRecord | None = None  #: the row that ends the dataset
    unused_columns: tuple[str, ...] = ()  #: that hold something and that nobody reads


@dataclass(frozen=True, slots=True)
class Making:
    """How a dataset's conversations become rows: the same for all its shards."""

    shape: Format
    options: Options
    options_json: str
    model: Model
    bad_rows: BadRows
    size: SizeLimit  #: of the whole dataset
    filtered_by: tuple[str, ...] = ()  #: columns that decide which rows are wanted


def make_shard(making: Making, shard: Shard, folder: str, lease: Lease) -> ShardResult:
    """Write the shard's rows to a file in `folder`, a URL.

    Raises:
        NotWanted, SourceError, InvalidOption, StoreError; nothing is then left of the file.
    """
    size, unused = 0, UnusedColumns((*making.shape.used, *making.filtered_by))
    with ShardWriter(folder, making.options_json) as writer:
        build = DatasetBuild(writer)
        rows = wanted(shard)
        while chunk := list(islice(rows, CHUNK)):
            lease.check()
            for _, row in chunk:
                unused.add(row.value, row.unread)
            converted = [conversation_of(row, making.shape) for _, row in chunk]
            items = [item for item, _ in converted]
            size += sum(bytes_of for _, bytes_of in converted)
            refuse_larger(lease.read + len(chunk), size, making.size)
            for (index, row), item, made in zip(chunk, items, _preprocessed(items, making), strict=True):
                build.seen = index
                if not isinstance(made, PreprocessError):
                    build.add([made])
                    continue
                issue = _issue(index, row, item, made)
                if not making.bad_rows.leaves_out(made):
                    return ShardResult(read=lease.read, bad=issue)
                build.add([issue])
            lease.read += len(chunk)
        totals = build.totals()
        file = writer.commit() if sum(totals.lengths.counts) else None
        return ShardResult(file, lease.read, size, totals, unused_columns=tuple(unused.names))


def wanted(shard: Shard) -> Iterator[tuple[int, RawRow]]:
    """Yield the shard's rows to take, each with its position among all rows to take."""
    bits = base64.b64decode(shard.take)
    rows = (row for piece in shard.pieces for row in read(piece))
    taken = (row for at, row in enumerate(rows) if not bits or bits[at >> 3] & (128 >> (at & 7)))
    yield from enumerate(taken, start=shard.index)


def _preprocessed(
    items: Sequence[Conversation | PreprocessError], making: Making
) -> list[PreprocessedConversation | PreprocessError]:
    results = preprocess_each(items, making.options, making.model)
    for result in results:
        if isinstance(result, InvalidOption):  # wrong for every conversation
            raise result
    return results


def _issue(index: int, row: RawRow, item: Conversation | PreprocessError, error: PreprocessError) -> IssueRecord:
    """Return the issue, its sentence beginning with file and line."""
    identifier = item.id if isinstance(item, Conversation) else ""
    issue = issue_record(index, identifier, error)
    return IssueRecord(
        issue.conversation_index,
        issue.code,
        f"{row.place}: {issue.message}",
        issue.field,
        issue.message_index,
        issue.conversation_id,
    )
