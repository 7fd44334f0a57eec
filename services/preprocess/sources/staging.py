"""Rows that come only once, written to the store in pieces that any worker can read. Knows no format of conversations.

A staged row is one line: {"place": ..., "value": ...} or {"place": ..., "mistake": ...}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from services.preprocess.sources.opening import opened
from services.preprocess.sources.pieces import SHARD_BYTES, SHARD_ROWS, Piece
from services.store.files import whole_file
from turnloom.rows import RawRow


def stage(rows: Iterable[RawRow], folder: str, place: str) -> Iterator[Piece]:
    """Write rows to numbered files below `folder`, a URL of the store; one file is held open, and one row in memory.

    Raises:
        StoreError, and whatever reading the rows raises.
    """
    left = iter(rows)
    for number, first in enumerate(left):
        url = f"{folder}/{number:06d}.jsonl"
        count = size = 0
        with whole_file(url) as file:
            for row in chain([first], islice(left, SHARD_ROWS - 1)):
                line = json.dumps(
                    {"place": row.place, **({"mistake": row.mistake} if row.mistake else {"value": row.value})}
                )
                size += file.write(line.encode() + b"\n")
                count += 1
                if size > SHARD_BYTES // 2:  # a row of any size may still come
                    break
        yield Piece(url, "staged", place, 0, 0, count, size)


def read_staged(piece: Piece) -> Iterator[RawRow]:
    """The rows as they were staged."""
    with opened(piece.url) as file:
        for line in file:
            row = json.loads(line)
            yield RawRow(row["place"], row.get("value"), row.get("mistake", ""))
