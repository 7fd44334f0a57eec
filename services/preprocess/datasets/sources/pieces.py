"""The pieces of a source that make up a shard, and how many rows fit into one."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

#: Rows of one shard: some ten seconds of work, so that a killed worker loses little and starting costs little.
SHARD_ROWS: Final = 8_192
#: Bytes of one shard, where they are known: long conversations make smaller shards.
SHARD_BYTES: Final = 64 << 20
#: Kinds of pieces that were copied to the store: rows as JSON lines, Arrow batches.
COPIED: Final = ("staged", "batch")


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of rows of one file."""

    url: str  #: path or fsspec URL
    kind: str  #: how it is read: "lines", "parquet", "arrow", or of COPIED
    place: str  #: name of the source for people
    start: int  #: first byte of lines and staged rows; first row of the others
    number: int  #: number, for people, of the first line or row
    count: int  #: rows; blank lines are none
    size: int = 0  #: bytes, where known


@dataclass(frozen=True, slots=True)
class Shard:
    """The pieces that one task turns into rows."""

    index: int  #: position of the first row among those of the source that are wanted
    pieces: tuple[Piece, ...]
    take: str = ""  #: base64 of one bit per row, first row in the highest bit: which are wanted; empty: all

    @property
    def count(self) -> int:
        """Return the number of rows."""
        return sum(piece.count for piece in self.pieces)

    @property
    def wanted(self) -> int:
        """Return the number of rows to take."""
        return int.from_bytes(base64.b64decode(self.take), "big").bit_count() if self.take else self.count


def pack(pieces: Iterable[Piece], limit: int = 0) -> Iterator[Shard]:
    """Pack pieces, in order, into shards; the cuts depend on nothing but the pieces.

    Args:
        pieces: none with more than SHARD_ROWS rows or, unless it is a single row, SHARD_BYTES.
        limit: rows to take; 0: all.
    """
    index, rows, size = 0, 0, 0
    held: list[Piece] = []
    for whole in pieces:
        left = limit - index - rows if limit else whole.count
        if limit and left <= 0:
            break
        piece = replace(whole, count=min(left, whole.count))
        if piece.count == 0:
            continue
        if held and (rows + piece.count > SHARD_ROWS or size + piece.size > SHARD_BYTES):
            yield Shard(index, tuple(held))
            index, rows, size, held = index + rows, 0, 0, []
        held.append(piece)
        rows, size = rows + piece.count, size + piece.size
    if held:
        yield Shard(index, tuple(held))
