"""Select among a source's rows once, before its shards begin, so that no worker needs another's rows.

turnloom.reading.selecting decides which rows are wanted, as it does for the client's files.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from services.preprocess.datasets.sources.lease import Lease
from services.preprocess.datasets.sources.pieces import Shard
from services.preprocess.datasets.sources.shards import wanted
from services.preprocess.domain.source_errors import SourceEmpty
from services.store.records import DatasetSource, LeftOutRecord
from turnloom.errors import InvalidInput
from turnloom.reading.chat_formats import Format
from turnloom.reading.filters import RowFilter
from turnloom.reading.rows import RawRow
from turnloom.reading.selecting import Choice, Looking, Mask, Selected, overlap

ROWS_A_CHECK = 256  #: rows looked at between two questions whether anybody still waits


def choice_of(source: DatasetSource) -> Choice:
    """Return the selection that a record asks for."""
    asked = source.filter
    return Choice(
        RowFilter(asked.where, asked.min_messages, asked.max_messages, asked.min_characters, asked.max_characters),
        source.deduplicate,
        source.test_fraction,
        source.split_seed,
    )


def select(
    source: DatasetSource, shards: Sequence[Shard], shape: Format, lease: Lease, others: Iterable[RawRow] = ()
) -> tuple[tuple[Shard, ...], LeftOutRecord]:
    """Return the shards with the rows that are wanted, and what is reported of the others.

    Args:
        source: as it was asked for.
        shards: all rows of the source.
        shape: format of the rows.
        lease: of this task.
        others: rows of source.overlap_split.

    Raises:
        SourceEmpty: no row passes the filter, or there are too few for two parts.
        NotWanted, SourceNotReadable.
    """
    choice = choice_of(source)
    if not (choice or source.overlap_split):
        return tuple(shards), LeftOutRecord()
    looking = Looking(choice, shape, compare=bool(source.overlap_split))
    for shard in shards:
        for index, row in wanted(shard):
            if index % ROWS_A_CHECK == 0:
                lease.check()
            looking.add(row)
    try:
        found = looking.selected()
    except InvalidInput as error:
        raise SourceEmpty(error.message, error.hint) from error
    if source.overlap_split:
        found = replace(found, overlapping=_overlap(source, shape, others, looking.digests[found.train]))
    return taken(source, shards, found)


def taken(
    source: DatasetSource, shards: Sequence[Shard], selected: Selected
) -> tuple[tuple[Shard, ...], LeftOutRecord]:
    """Return the shards with the selected rows, and what is reported of the others."""
    keep = selected.test if source.take_test else selected.train
    counts = LeftOutRecord(selected.filtered, selected.duplicates, selected.overlapping)
    return tuple(_taking(shards, keep)), counts


def _overlap(source: DatasetSource, shape: Format, others: Iterable[RawRow], own: NDArray[np.bytes_]) -> int:
    """Count the chosen conversations that another split also holds.

    Its unreadable rows do not count as conversations.
    """
    looking = Looking(Choice(deduplicate=source.deduplicate), shape, compare=True)
    for row in others:
        looking.add(row)
    return overlap(looking.digests[looking.known], own)


def _taking(shards: Sequence[Shard], keep: Mask) -> Iterator[Shard]:
    """Yield the shards that have wanted rows.

    Positions count the wanted rows only, as a client counts what it sends.
    """
    before = 0
    for shard in shards:
        bits = keep[shard.index : shard.index + shard.count]
        if bits.any():
            yield replace(shard, index=before, take=base64.b64encode(np.packbits(bits).tobytes()).decode())
        before += int(bits.sum())
