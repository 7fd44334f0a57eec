"""Cut Parquet and Arrow files into row ranges, and read from any of them.

A row group of Parquet can only be decoded from its beginning. Of a file with large ones every shard would decode all
rows before its own. So such a file is copied once, as Arrow batches of a shard's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from services.preprocess.datasets.sources.opening import opened
from services.preprocess.datasets.sources.pieces import SHARD_BYTES, SHARD_ROWS, Piece
from services.store.blobs.files import whole_file
from turnloom.reading.columnar import arrow_batches, arrow_rows, parquet_rows
from turnloom.reading.rows import RawRow

GROUP_ROWS: Final = 4 * SHARD_ROWS  #: of the largest row group of a file that is read where it lies


def cut_parquet(url: str, staging_folder: str) -> Iterator[Piece]:
    """Yield pieces of at most SHARD_ROWS rows; of a file with large row groups they lie below `staging_folder`."""
    with opened(url) as file, pq.ParquetFile(file) as table:
        groups = [table.metadata.row_group(number).num_rows for number in range(table.metadata.num_row_groups)]
        if max(groups, default=0) <= GROUP_ROWS:
            yield from _ranges(url, "parquet", table.metadata.num_rows)
            return
        first = 0
        for batch in table.iter_batches(batch_size=SHARD_ROWS, use_threads=False):
            most = max(1, min(SHARD_ROWS, SHARD_BYTES * batch.num_rows // max(1, batch.nbytes)))
            for begin in range(0, batch.num_rows, most):
                part = batch.slice(begin, most)
                yield _staged(url, f"{staging_folder}/{first + begin:012d}.arrow", part, first + begin)
            first += batch.num_rows


def _staged(url: str, name: str, batch: pa.RecordBatch, first: int) -> Piece:
    with whole_file(name) as file, pa.ipc.new_stream(file, batch.schema) as stream:
        stream.write_batch(batch)
    return Piece(name, "batch", url, first, first, batch.num_rows, batch.nbytes)


def read_batch(piece: Piece) -> Iterator[RawRow]:
    """Yield the rows of a batch that was copied."""
    with opened(piece.url) as file:
        yield from arrow_rows(piece.place, file, piece.start, first=piece.start)


def read_parquet(piece: Piece) -> Iterator[RawRow]:
    """Yield rows from the piece's start to the end of the file."""
    with opened(piece.url) as file:
        yield from parquet_rows(piece.place, file, piece.start)


def cut_arrow(url: str) -> Iterator[Piece]:
    """Yield pieces of at most SHARD_ROWS rows."""
    with opened(url) as file:
        rows = sum(batch.num_rows for batch in arrow_batches(file))
    yield from _ranges(url, "arrow", rows)


def read_arrow(piece: Piece) -> Iterator[RawRow]:
    """Yield rows from the piece's start to the end of the file."""
    with opened(piece.url) as file:
        yield from arrow_rows(piece.place, file, piece.start)


def _ranges(url: str, kind: str, rows: int) -> Iterator[Piece]:
    for start in range(0, rows, SHARD_ROWS):
        yield Piece(url, kind, url, start, start, min(SHARD_ROWS, rows - start))
