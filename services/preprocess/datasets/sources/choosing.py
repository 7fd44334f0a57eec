"""Put together what the parts of a large source gave: its shards, and which of their rows are wanted.

Duplicates are found bucket after bucket of digests, so that memory is a bucket and three bytes a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from services.preprocess.datasets.sources.lease import Lease
from services.preprocess.datasets.sources.pieces import Piece, Shard, pack
from services.preprocess.datasets.sources.scanning import ENTRY, ScanFile
from services.preprocess.datasets.sources.selecting import choice_of, taken
from services.preprocess.domain.source_errors import SourceEmpty
from services.store.records import DatasetSource, LeftOutRecord
from turnloom.errors import InvalidInput
from turnloom.reading.selecting import Mask, selected

Groups = NDArray[np.int64]


def choose(source: DatasetSource, scans: Sequence[ScanFile], lease: Lease) -> tuple[tuple[Shard, ...], LeftOutRecord]:
    """Return the shards with the rows that are wanted, and what is reported of the others.

    Args:
        source: as it was asked for.
        scans: of all parts, in order.
        lease: of this task.

    Raises:
        SourceEmpty: there is no row, none passes the filter, or there are too few for two parts.
        SourceNotReadable, NotWanted.
    """
    shards = tuple(pack(_numbered(scans)))
    if not shards:
        raise SourceEmpty(f"{source.uri} holds no row.", hint="Look at the file, the split and the limit.")
    choice = choice_of(source)
    if not choice:
        return shards, LeftOutRecord()
    compared = Compared(scans, lease)
    passed = np.concatenate([scan.found.wanted() for scan in scans])
    try:
        found = selected(choice, passed, compared.first_of_each, compared.overlap)
    except InvalidInput as error:
        raise SourceEmpty(error.message, error.hint) from error
    return taken(source, shards, found)


def _numbered(scans: Sequence[ScanFile]) -> Iterator[Piece]:
    """Yield the pieces of all parts; lines are numbered from the beginning of their file."""
    url, before = "", 0
    for scan in scans:
        if scan.found.url != url:
            url, before = scan.found.url, 0
        yield from (replace(piece, number=piece.number + before) for piece in scan.found.pieces)
        before += scan.found.lines


class Compared:
    """The rows of all parts by their digests. Rows that can't be read, and those not wanted, are like no other."""

    def __init__(self, scans: Sequence[ScanFile], lease: Lease) -> None:
        self._scans = scans
        self._lease = lease
        rows = [scan.found.rows for scan in scans]
        self._first = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)  # row of each part, then of the end

    def first_of_each(self) -> Mask:
        """Mark the first row of each digest, shape (rows,)."""
        first = np.ones(int(self._first[-1]), dtype=np.bool_)
        for rows, groups in self._buckets():
            first[rows[1:][groups[1:] == groups[:-1]]] = False
        return first

    def overlap(self, train: Mask, test: Mask) -> int:
        """Count the rows of `test` that `train` also holds."""
        return sum(
            int((test[rows] & (np.bincount(groups, weights=train[rows]) > 0)[groups]).sum())
            for rows, groups in self._buckets()
        )

    def _buckets(self) -> Iterator[tuple[Groups, Groups]]:
        """Yield for each bucket its rows, equal ones side by side in their order, and their groups' numbers."""
        for number in range(len(self._scans[0].found.buckets)):
            self._lease.check()
            parts = [scan.bucket(number) for scan in self._scans]
            found = np.concatenate(parts) if parts else np.empty(0, ENTRY)
            if not len(found):
                continue
            high, low = found["high"].astype(np.uint64), found["low"].astype(np.uint64)
            first = np.repeat(self._first[:-1], [len(part) for part in parts])
            order = np.lexsort((low, high))  # stable: of equal digests the earlier row comes first
            new = np.concatenate([[True], (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)])
            yield (found["row"].astype(np.int64) + first)[order], np.cumsum(new) - 1
