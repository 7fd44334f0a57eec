"""Parquet and Arrow files: cut at rows, read a few hundred rows at a time. Knows no format of conversations.

Arrow is taken in both its forms: the file, which `datasets` downloads to, and the stream, which `save_to_disk` writes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from services.preprocess.sources.opening import opened
from services.preprocess.sources.pieces import SHARD_ROWS, Piece
from services.preprocess.sources.rows import RawRow, plain

BATCH = 256  #: rows made plain values at once


def cut_parquet(url: str) -> Iterator[Piece]:
    """Pieces of at most SHARD_ROWS rows."""
    with opened(url) as file, pq.ParquetFile(file) as table:
        yield from _ranges(url, "parquet", table.metadata.num_rows)


def read_parquet(piece: Piece) -> Iterator[RawRow]:
    """Rows from the piece's start to the end of the file; row groups before it are not read."""
    with opened(piece.url) as file, pq.ParquetFile(file) as table:
        first = 0
        for group in range(table.metadata.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            if first + count > piece.start:
                batches = table.iter_batches(batch_size=BATCH, row_groups=[group], use_threads=False)
                yield from _rows(piece, batches, first)
            first += count


def cut_arrow(url: str) -> Iterator[Piece]:
    """Pieces of at most SHARD_ROWS rows."""
    with opened(url) as file:
        rows = sum(batch.num_rows for batch in _arrow_batches(file))
    yield from _ranges(url, "arrow", rows)


def read_arrow(piece: Piece) -> Iterator[RawRow]:
    """Rows from the piece's start to the end of the file."""
    with opened(piece.url) as file:
        yield from _rows(piece, _arrow_batches(file), 0)


def _arrow_batches(file: io.BufferedIOBase) -> Iterator[pa.RecordBatch]:
    # A map costs no memory of the process for rows that are passed over.
    source = (
        pa.memory_map(file.name) if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO) else file
    )
    try:
        table = pa.ipc.open_file(source)
        yield from (table.get_batch(index) for index in range(table.num_record_batches))
    except pa.ArrowInvalid:
        source.seek(0)
        yield from pa.ipc.open_stream(source)


def _ranges(url: str, kind: str, rows: int) -> Iterator[Piece]:
    for start in range(0, rows, SHARD_ROWS):
        yield Piece(url, kind, url, start, start, min(SHARD_ROWS, rows - start))


def _rows(piece: Piece, batches: Iterator[pa.RecordBatch], first: int) -> Iterator[RawRow]:
    """Rows from the piece's start on; `first` is the number of the first batch's first row."""
    for batch in batches:
        for begin in range(max(0, piece.start - first), batch.num_rows, BATCH):
            for offset, value in enumerate(batch.slice(begin, BATCH).to_pylist()):
                yield column_row(f"{piece.place}, row {first + begin + offset}", value)
        first += batch.num_rows


def column_row(place: str, values: object) -> RawRow:
    """One row of columns."""
    try:
        return RawRow(place, plain(values))
    except ValueError as error:
        return RawRow(place, mistake=str(error))
