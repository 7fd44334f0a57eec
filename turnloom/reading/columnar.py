"""Read rows of Parquet and Arrow files, a few hundred at a time. Needs pyarrow.

Reads both Arrow forms: the file, which `datasets` downloads to, and the stream, which `save_to_disk` writes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from turnloom.errors import InvalidInput
from turnloom.foreign.arrow_types import plain_rows, twice
from turnloom.reading.rows import RawRow, row_of

BATCH = 256  #: rows made plain values at once


def parquet_rows(place: str, file: io.BufferedIOBase, start: int = 0) -> Iterator[RawRow]:
    """Yield rows from number `start` to the end of the file, skipping row groups before it."""
    with pq.ParquetFile(file) as table:
        first = 0
        for group in range(table.metadata.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            if first + count > start:
                batches = table.iter_batches(batch_size=BATCH, row_groups=[group], use_threads=False)
                yield from _rows(place, batches, first, start)
            first += count


def arrow_rows(place: str, file: io.BufferedIOBase, start: int = 0, first: int = 0) -> Iterator[RawRow]:
    """Yield rows from number `start` to the end of the file, whose first row has number `first`."""
    yield from _rows(place, arrow_batches(file), first, start)


def arrow_batches(file: io.BufferedIOBase) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow file or stream."""
    # A memory map costs no process memory for skipped rows.
    source = (
        pa.memory_map(file.name) if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO) else file
    )
    try:
        table = pa.ipc.open_file(source)
        yield from (table.get_batch(index) for index in range(table.num_record_batches))
    except pa.ArrowInvalid:
        source.seek(0)
        yield from pa.ipc.open_stream(source)


def _rows(place: str, batches: Iterator[pa.RecordBatch], first: int, start: int) -> Iterator[RawRow]:
    """Yield rows from `start` on; `first` is the number of the first batch's first row."""
    for batch in batches:
        if again := twice(batch.schema.names):
            raise InvalidInput(f"{place} has the column {again} twice.", hint="Rename one of them.")
        for begin in range(max(0, start - first), batch.num_rows, BATCH):
            for offset, values in enumerate(plain_rows(batch.slice(begin, BATCH))):
                yield row_of(f"{place}, row {first + begin + offset}", values)
        first += batch.num_rows
