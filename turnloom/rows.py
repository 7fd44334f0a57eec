"""One row as a source has it, as plain JSON values with its place. Knows no file and no format of conversations."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal

from turnloom.conversations import JSON


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row, or why it can't be read."""

    place: str  #: for people: "chats.jsonl, line 12"
    value: JSON = None
    mistake: str = ""  #: why it can't be read; then there is no value


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
        return RawRow(place, parse(data.decode("utf-8-sig")))
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
