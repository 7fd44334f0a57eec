"""One row as a source has it, as plain JSON values with its place. Knows no file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from itertools import islice

from turnloom.conversations import JSON
from turnloom.errors import InvalidInput
from turnloom.reading.formats import Format, detect

LOOKED_AT = 100  #: rows that detection looks at


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row, or why it can't be read."""

    place: str  #: for people: "chats.jsonl, line 12"
    value: JSON = None
    mistake: str = ""  #: why it can't be read; then there is no value


def shape_of(rows: Iterable[RawRow], name: str = "", columns: Mapping[str, str] | None = None) -> Format:
    """The format that was named, or the one that the first LOOKED_AT rows show.

    Raises:
        InvalidInput: an unknown format or part, or none is shown; the sentence names the columns that there are.
    """
    if name:
        return Format(name, dict(columns or {}))
    looked_at = list(islice(rows, LOOKED_AT))
    good = [row.value for row in looked_at if not row.mistake]
    if looked_at and not good:
        first = looked_at[0]
        none = f"None of the first {len(looked_at)} rows can be read" if len(looked_at) > 1 else "No row can be read"
        raise InvalidInput(f"{none}; {first.place} {first.mistake}", field="format")
    return detect(good, columns)


def parse(text: str) -> JSON:
    """JSON without NaN and Infinity.

    Raises:
        ValueError: also as JSONDecodeError.
    """
    try:
        value: JSON = json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("is nested too deeply.") from error
    return value


def parsed(place: str, data: bytes) -> RawRow:
    """A row of UTF-8 JSON, with or without a byte order mark."""
    try:
        return RawRow(place, parse(data.decode("utf-8-sig").rstrip()))  # a mistake is in the line, not after it
    except ValueError as error:
        return RawRow(place, mistake=why_not_json(error))


def why_not_json(error: ValueError) -> str:
    """The rest of a sentence that begins with the place."""
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8."
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON ({error.msg} in column {error.colno})."
    return str(error)


def _no_constant(name: str) -> float:
    raise ValueError(f"holds {name}, which is no JSON value.")


def plain(value: object) -> JSON:
    """A value of a column as JSON has it.

    Columns give every struct all keys, so a key that is null in a struct is taken as absent; only content, where null
    says something, stays. Raises ValueError for what JSON can't hold.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if item is not None or key == "content"}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise ValueError(f"holds a value of type {type(value).__name__}, which JSON can't hold.")
