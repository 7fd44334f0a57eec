"""Read rows of Parquet and Arrow files, a few hundred at a time. Needs pyarrow.

Reads both Arrow forms: the file, which `datasets` downloads to, and the stream, which `save_to_disk` writes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from turnloom.foreign.json_text import FromText, NoJSON, loads
from turnloom.reading.rows import RawRow, column_row, why_not_json

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
        readers = {column.name: reader for column in batch.schema if (reader := reader_of(column.type)) is not None}
        for begin in range(max(0, start - first), batch.num_rows, BATCH):
            for offset, values in enumerate(batch.slice(begin, BATCH).to_pylist()):
                for name, read in readers.items():
                    values[name] = read(values[name])
                yield column_row(f"{place}, row {first + begin + offset}", values)
        first += batch.num_rows


def reader_of(kind: pa.DataType) -> Callable[[Any], object] | None:
    """Return the converter from Arrow values of a type to plain values; None: they need none.

    It works at every depth. It parses text of the type arrow.json, and turns the pairs of a map into an object. It
    reads bytes that are UTF-8 as text, since tools that do not annotate strings write it so.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return _json if kind.extension_name == "arrow.json" else reader_of(kind.storage_type)
    if any(is_bytes(kind) for is_bytes in _BYTES):
        return _text
    if pa.types.is_map(kind):
        return _or_none(partial(_object, reader_of(kind.item_type) or _same))
    if pa.types.is_dictionary(kind):
        return reader_of(kind.value_type)
    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        inner = {field.name: reader for field in fields if (reader := reader_of(field.type)) is not None}
        return _or_none(partial(_struct, inner)) if inner else None
    if any(is_list(kind) for is_list in _LISTS):
        read = reader_of(kind.value_type)
        return None if read is None else _or_none(partial(_each, read))
    return None


_BYTES: Final = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
_LISTS: Final = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def _or_none(read: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda value: None if value is None else read(value)


def _same(value: object) -> object:
    return value


def _text(value: object) -> object:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return NoJSON("holds bytes that are no text.")


def _json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return FromText(loads(value))
    except ValueError as error:
        return NoJSON(why_not_json(error))


def _object(read: Callable[[Any], object], pairs: Sequence[tuple[object, Any]]) -> object:
    found = {str(key): read(item) for key, item in pairs}
    return found if len(found) == len(pairs) else NoJSON("holds a map with one key twice.")


def _struct(readers: Mapping[str, Callable[[Any], object]], values: Mapping[str, Any]) -> object:
    return {name: readers[name](item) if name in readers else item for name, item in values.items()}


def _each(read: Callable[[Any], object], values: Sequence[Any]) -> object:
    return [read(item) for item in values]
