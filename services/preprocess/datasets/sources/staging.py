"""Stage rows that can be read only once: write them to the store in pieces that any worker can read.

A staged row is one line: {"place": ..., "value": ..., "unread": {...}} or {"place": ..., "mistake": ...}.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from services.preprocess.datasets.sources.opening import opened
from services.preprocess.datasets.sources.pieces import SHARD_BYTES, SHARD_ROWS, Piece
from services.store.blobs.files import exists, whole_file
from turnloom.reading.rows import RawRow


def stage(rows: Iterable[RawRow], folder: str, place: str, first: int = 0) -> Iterator[Piece]:
    """Write rows to numbered files below `folder`, a URL of the store. One file is held open, and one row in memory.

    Args:
        rows: in order.
        folder: a URL.
        place: name of the source for people.
        first: number of the first file.

    Raises:
        StoreError, and whatever reading the rows raises.
    """
    left = iter(rows)
    for number, begin in enumerate(left, start=first):
        url = _file(folder, number)
        count = size = 0
        with whole_file(url) as file:
            for row in chain([begin], islice(left, SHARD_ROWS - 1)):
                told = {"mistake": row.mistake} if row.mistake else {"value": row.value, "unread": dict(row.unread)}
                line = json.dumps({"place": row.place, **told})
                size += file.write(line.encode() + b"\n")
                count += 1
                if size > SHARD_BYTES // 2:  # a row of any size may still come
                    break
        yield Piece(url, "staged", place, 0, 0, count, size)


def staged(folder: str, place: str) -> Iterator[Piece]:
    """Yield the pieces that an earlier attempt staged, so that nothing is read from the source again.

    Only whole files count.

    Raises:
        SourceNotReadable, StoreError.
    """
    for number in itertools.count():
        url = _file(folder, number)
        if not exists(url):
            return
        count = size = 0
        with opened(url) as file:
            for line in file:
                count, size = count + 1, size + len(line)
        yield Piece(url, "staged", place, 0, 0, count, size)


def noted(folder: str, find: Callable[[], str]) -> str:
    """Return a value that every attempt shares: the first one finds it and stores it beside the staged rows.

    Raises:
        SourceNotReadable, StoreError, and whatever finding it raises.
    """
    url = f"{folder}/word"
    if not exists(url):
        word = find()
        with whole_file(url) as file:
            file.write(word.encode())
        return word
    with opened(url) as file:
        return file.read().decode()


def _file(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.jsonl"


def read_staged(piece: Piece) -> Iterator[RawRow]:
    """Yield the rows as they were staged."""
    with opened(piece.url) as file:
        for line in file:
            row = json.loads(line)
            yield RawRow(row["place"], row.get("value"), row.get("mistake", ""), row.get("unread", {}))
