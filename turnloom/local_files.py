"""Files of this machine as conversations, in any of the formats. Knows no server.

What a server-side source takes beyond this (Parquet, Arrow, compressed files, URLs) needs libraries that the client
lacks; `turnloom dataset import` has the server read them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from turnloom.conversations import JSON, Sourced, documents, from_json, read_sourced
from turnloom.errors import InvalidInput
from turnloom.formats import Format, detect

SERVER_SIDE: Final = (".parquet", ".arrow", ".gz", ".bz2", ".xz")


def read_local(path: Path) -> Iterator[Sourced]:
    """Conversations one by one, each with its place; the first row decides on the format.

    Raises:
        InvalidInput: names file, line and field of the first mistake.
    """
    if path.suffix.lower() in SERVER_SIDE:
        raise InvalidInput(
            f"{path} is read by the server only.", hint=f"Use `turnloom dataset import {path}`, or write JSON lines."
        )
    rows = _csv_rows(path) if path.suffix.lower() in (".csv", ".tsv") else documents(path)
    first = next(rows, None) if not path.is_dir() else None
    shape = None if first is None else _shape(first[0])
    if first is None or shape is None:  # its own words fit better than those of a format that was guessed
        yield from read_sourced(path)
        return
    yield _converted(*first, shape)
    for row, place in rows:
        yield _converted(row, place, shape)


def _shape(row: JSON) -> Format | None:
    """The format that a row shows; None: messages, or nothing."""
    try:
        found = detect([row])
    except InvalidInput:
        return None
    return None if found == Format("messages") else found


def _converted(row: JSON, place: str, shape: Format) -> Sourced:
    try:
        document = shape.document(row)
    except InvalidInput as error:
        where = ": ".join(part for part in (place, error.field, error.message) if part)
        raise InvalidInput(where, hint=error.hint, field=error.field) from error
    return Sourced(from_json(document, place), place)


def _csv_rows(path: Path) -> Iterator[tuple[JSON, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise InvalidInput(f"{path}, line {reader.line_num}: has not as many cells as there are columns.")
                yield dict(row), f"{path}, line {reader.line_num}"
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path} can't be read as CSV: {error}.") from error
