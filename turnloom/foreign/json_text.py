"""JSON text as values, with NaN and Infinity kept apart, and lists that came as text. Knows no row and no message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from turnloom.conversations import JSON

#: How a text begins that may be a JSON list.
_LIST: Final = "["


@dataclass(frozen=True, slots=True)
class NoJSON:
    """A value that JSON can't hold, in the place where it stood."""

    what: str  #: the rest of a sentence: "holds NaN, which is no JSON value."


@dataclass(frozen=True, slots=True)
class FromText:
    """What JSON text in a column said: its nulls were written, no table filled them in."""

    value: object


def constant(name: str) -> NoJSON:
    """NaN or Infinity, as a parser of JSON text meets them."""
    return NoJSON(f"holds {name}, which is no JSON value.")


def loads(text: str) -> object:
    """Parse JSON; NaN and Infinity become NoJSON.

    Raises:
        ValueError: also as JSONDecodeError.
    """
    try:
        return json.loads(text, parse_constant=constant)
    except RecursionError as error:
        raise ValueError("is nested too deeply.") from error


def parse(text: str) -> JSON:
    """Parse JSON without NaN and Infinity.

    Raises:
        ValueError: also as JSONDecodeError.
    """
    value = loads(text)
    odd = first_odd(value)
    if odd:
        raise ValueError(odd)
    return cast("JSON", value)


def first_odd(value: object) -> str:
    """What is wrong with the first NoJSON inside a value; empty: there is none."""
    if isinstance(value, NoJSON):
        return value.what
    if isinstance(value, Mapping):
        return next((odd for item in value.values() if (odd := first_odd(item))), "")
    if isinstance(value, list):
        return next((odd for item in value if (odd := first_odd(item))), "")
    return ""


def columns_of(value: object) -> tuple[JSON, dict[str, str]]:
    """Give an object without the keys that hold a NoJSON, and what is wrong with each of those.

    Raises:
        ValueError: a NoJSON inside what is no object.
    """
    if not isinstance(value, dict):
        odd = first_odd(value)
        if odd:
            raise ValueError(odd)
        return cast("JSON", value), {}
    unread = {key: odd for key, item in value.items() if (odd := first_odd(item))}
    return (value if not unread else {key: item for key, item in value.items() if key not in unread}), unread


def list_in(value: JSON) -> Sequence[JSON] | None:
    """Give the list that a value is or that its JSON text holds, each JSON text of an object in it read; else None."""
    if isinstance(value, str) and value.lstrip().startswith(_LIST):
        try:
            value = parse(value)
        except ValueError:
            return None
    if not isinstance(value, list):
        return None
    if not any(isinstance(item, str) for item in value):
        return value
    return [object_in(item) for item in value]


def object_in(value: JSON) -> JSON:
    """Give the object whose JSON text this is; any other value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            found = parse(value)
        except ValueError:
            return value
        return found if isinstance(found, dict) else value
    return value
