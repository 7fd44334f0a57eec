"""Cut Parquet and Arrow files into row ranges, and read from any of them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq

from services.preprocess.datasets.sources.opening import opened
from services.preprocess.datasets.sources.pieces import SHARD_ROWS, Piece
from turnloom.reading.columnar import arrow_batches, arrow_rows, parquet_rows
from turnloom.reading.rows import RawRow


def cut_parquet(url: str) -> Iterator[Piece]:
    """Yield pieces of at most SHARD_ROWS rows."""
    with opened(url) as file, pq.ParquetFile(file) as table:
        yield from _ranges(url, "parquet", table.metadata.num_rows)


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
