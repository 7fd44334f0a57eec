"""Read Arrow's values as the JSON that they stand for: text of the type arrow.json, maps, bytes. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import pyarrow as pa

from turnloom.foreign.column_values import Pairs, plain_column
from turnloom.foreign.json_text import FromText, NoJSON, loads, why_not_json


def twice(names: Sequence[str]) -> str:
    """Return the first name of a column that stands twice; empty: none does. Python would keep the last one."""
    return next((name for at, name in enumerate(names) if name in names[:at]), "")


def plain_rows(batch: pa.RecordBatch | pa.Table) -> Iterator[dict[str, object]]:
    """Yield the rows of a batch as JSON, with NoJSON for what JSON can't hold."""
    readers = {field.name: reader for field in batch.schema if (reader := reader_of(field.type)) is not None}
    for values in batch.to_pylist():
        for name, read in readers.items():
            values[name] = read(values[name])
        yield {name: plain_column(value) for name, value in values.items()}


def table_of(columns: Mapping[str, Sequence[Any]], plain: Mapping[str, type], lists: Mapping[str, type]) -> pa.Table:
    """Make a table of columns, of the same types also where there is no row.

    Args:
        columns: values by name.
        plain: numpy's type of the values of each column that holds numbers.
        lists: and of each that holds lists of numbers.
    """
    kinds = {name: pa.from_numpy_dtype(kind) for name, kind in plain.items()}
    kinds |= {name: pa.list_(pa.from_numpy_dtype(kind)) for name, kind in lists.items()}
    return pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()})


def plain_values(column: pa.Array | pa.ChunkedArray) -> Iterator[object]:
    """Yield the values of a column as JSON; a struct is a row, so each of its fields is a column."""
    read = reader_of(column.type) or _same
    for value in map(read, column.to_pylist()):
        if isinstance(value, Mapping):
            yield {name: plain_column(field) for name, field in value.items()}
        else:
            yield plain_column(value)


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
    found = Pairs((str(key), read(item)) for key, item in pairs)
    return found if len(found) == len(pairs) else NoJSON("holds a map with one key twice.")


def _struct(readers: Mapping[str, Callable[[Any], object]], values: Mapping[str, Any]) -> object:
    return {name: readers[name](item) if name in readers else item for name, item in values.items()}


def _each(read: Callable[[Any], object], values: Sequence[Any]) -> object:
    return [read(item) for item in values]
