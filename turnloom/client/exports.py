"""Write a dataset's rows as a file for another trainer. Parquet needs pyarrow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from turnloom.errors import InvalidInput
from turnloom.optional import needs
from turnloom.training_formats import Record, WeightsNotTaken, record
from turnloom.whole_file import whole_file
from turnloom.wire.batches import Row

if TYPE_CHECKING:
    import pyarrow as pa

GROUP: Final = 1_000  #: rows of a Parquet row group, and held in memory


def write_jsonl(path: Path, lines: Iterator[Record]) -> None:
    """Write one JSON object per line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def write_parquet(path: Path, lines: Iterator[Record]) -> None:
    """Write columns of lists, GROUP rows per row group; without rows the file is empty."""
    with needs("pip install pyarrow", __name__):  # optional at the client
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

    first = list(islice(lines, GROUP))
    schema = pa.schema([(name, _kind(name)) for name in (first[0] if first else ("input_ids", "labels"))])
    with pq.ParquetWriter(path, schema) as writer:
        while first:
            columns = {name: [line[name] for line in first] for name in schema.names}
            writer.write_table(pa.table(columns, schema=schema))
            first = list(islice(lines, GROUP))


def _kind(name: str) -> pa.DataType:
    import pyarrow as pa  # noqa: PLC0415  # as above

    plain = {"conversation": pa.uint32(), "part": pa.uint16()}
    lists = {"loss_weights": pa.float32(), "attention_mask": pa.int8()}
    return plain[name] if name in plain else pa.list_(lists.get(name, pa.int32()))


#: Writer and the file's ending, by format.
FILES: Final[Mapping[str, tuple[Callable[[Path, Iterator[Record]], None], str]]] = {
    "trl": (write_parquet, "parquet"),
    "axolotl": (write_parquet, "parquet"),
    "cookbook": (write_jsonl, "jsonl"),
    "datasets": (write_parquet, "parquet"),
}


def export(rows: Iterable[Row], to: str, path: Path) -> int:
    """Write rows for a trainer and return their number; an error leaves no file.

    Raises:
        InvalidInput: the format can't express a row's weights.
    """
    write, _ = FILES[to]
    count = 0

    def lines() -> Iterator[Record]:
        nonlocal count
        for row in rows:
            place = {"conversation": row.conversation_index, "part": row.part} if to == "datasets" else {}
            yield {**record(row, to), **place}
            count += 1

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(path) as part:
            write(part, lines())
    except WeightsNotTaken as error:
        raise InvalidInput(f"Row {count}: {error}.", field="--to") from error
    return count
