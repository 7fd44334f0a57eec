"""Turn the values of a table's column into JSON, in which a null key of a struct is absent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Final

from turnloom.foreign.json_text import FromText, NoJSON, constant

_INFINITIES: Final = {math.inf: "Infinity", -math.inf: "-Infinity"}


class Pairs(dict[str, object]):
    """The object of a map: a table fills no key into it, so its nulls were written."""


def plain_column(value: object) -> object:
    """Return a column's value as JSON, with NoJSON for what JSON can't hold.

    Columns give every struct all keys, so a null key of a struct counts as absent. Null is kept as a message's
    content: in a struct with a role, in a list that is a column.
    """
    return _plain(value, 0)


def _plain(value: object, depth: int) -> object:
    if isinstance(value, Mapping):
        is_message = depth == 1 and value.get("role") is not None
        return {
            str(key): _plain(item, depth + 1)
            for key, item in value.items()
            if item is not None or (is_message and key == "content") or isinstance(value, Pairs)
        }
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else constant(_INFINITIES.get(value, "NaN"))
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, FromText):
        return value.value
    if isinstance(value, NoJSON):
        return value
    return NoJSON(f"holds a value of type {type(value).__name__}, which JSON can't hold.")
