"""Rows of Parquet and Arrow files, a few hundred at a time. Needs pyarrow; knows no format of conversations.

Arrow is taken in both its forms: the file, which `datasets` downloads to, and the stream, which `save_to_disk` writes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from turnloom.reading.rows import RawRow, plain

BATCH = 256  #: rows made plain values at once


def parquet_rows(place: str, file: io.BufferedIOBase, start: int = 0) -> Iterator[RawRow]:
    """Rows from number `start` to the end of the file; row groups before it are not read."""
    with pq.ParquetFile(file) as table:
        first = 0
        for group in range(table.metadata.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            if first + count > start:
                batches = table.iter_batches(batch_size=BATCH, row_groups=[group], use_threads=False)
                yield from _rows(place, batches, first, start)
            first += count


def arrow_rows(place: str, file: io.BufferedIOBase, start: int = 0) -> Iterator[RawRow]:
    """Rows from number `start` to the end of the file."""
    yield from _rows(place, arrow_batches(file), 0, start)


def arrow_batches(file: io.BufferedIOBase) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow file or stream."""
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


def column_row(place: str, values: object) -> RawRow:
    """One row of columns."""
    try:
        return RawRow(place, plain(values))
    except ValueError as error:
        return RawRow(place, mistake=str(error))


def _rows(place: str, batches: Iterator[pa.RecordBatch], first: int, start: int) -> Iterator[RawRow]:
    """Rows from `start` on; `first` is the number of the first batch's first row."""
    for batch in batches:
        for begin in range(max(0, start - first), batch.num_rows, BATCH):
            for offset, value in enumerate(batch.slice(begin, BATCH).to_pylist()):
                yield column_row(f"{place}, row {first + begin + offset}", value)
        first += batch.num_rows
