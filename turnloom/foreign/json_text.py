"""Parse JSON text, keeping NaN and Infinity apart, and lists that came as text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from turnloom.characters import whole
from turnloom.errors import InvalidInput
from turnloom.foreign.plain_values import SHOWN, TOO_DEEP

#: A parsed JSON document.
JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

#: How a text begins that may be a JSON list.
_LIST: Final = "["
TOO_LONG_NUMBER: Final = "holds a whole number of more than 4,300 digits; write it as text."
NO_JSON: Final = "is not JSON"
NO_UTF8: Final = "is not UTF-8."


@dataclass(frozen=True, slots=True)
class NoJSON:
    """A value that JSON can't hold, or that would lose something, in its place in the document."""

    what: str  #: the rest of a sentence: "holds NaN, which is no JSON value."


@dataclass(frozen=True, slots=True)
class FromText:
    """The value of a column's JSON text: its nulls were written, not filled in by a table."""

    value: object


def constant(name: str) -> NoJSON:
    """Return the NoJSON for NaN or Infinity, as a parser of JSON text meets them."""
    return NoJSON(f"holds {name}, which JSON can't hold.")


def twice(pairs: Iterable[tuple[str, object]]) -> str:
    """Return which key of an object stands twice, as the beginning of a sentence."""
    ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
    return f"holds the key {whole(key)[:SHOWN]!r} twice"


def _object(pairs: list[tuple[str, object]]) -> object:
    """Return the object of these pairs, or the NoJSON for a key that stands twice: of its values one would get lost."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else NoJSON(f"{twice(pairs)}; leave one of them out.")


# Made once: `json.loads` makes one at each call, which takes longer than the objects of a short conversation.
_DECODER: Final = json.JSONDecoder(parse_constant=constant, object_pairs_hook=_object)


def loads(text: str) -> object:
    """Parse JSON; NaN and Infinity become NoJSON, and so does an object with a key that stands twice.

    Raises:
        ValueError: also as JSONDecodeError.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError(f"{TOO_DEEP}.") from error
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError):
            raise
        raise ValueError(TOO_LONG_NUMBER) from error  # int() advises to change a setting of Python


def parse(text: str) -> JSON:
    """Parse JSON without NaN, Infinity and keys that stand twice.

    Raises:
        ValueError: also as JSONDecodeError.
    """
    value = loads(text)
    odd = first_odd(value)
    if odd:
        raise ValueError(odd)
    return cast("JSON", value)


def why_not_json(error: ValueError) -> str:
    """Return the reason as the rest of a sentence that begins with the place."""
    if isinstance(error, UnicodeDecodeError):
        return NO_UTF8
    if isinstance(error, json.JSONDecodeError):
        return f"{NO_JSON} ({error.msg} in column {error.colno})."
    return str(error)


def first_odd(value: object) -> str:
    """Return what is wrong with the first NoJSON inside a value, or with its depth; empty: nothing."""
    try:
        return _first_odd(value)
    except RecursionError:
        return f"{TOO_DEEP}."


def _first_odd(value: object) -> str:
    if isinstance(value, NoJSON):
        return value.what
    if isinstance(value, Mapping):
        return next((odd for item in value.values() if (odd := _first_odd(item))), "")
    if isinstance(value, list):
        return next((odd for item in value if (odd := _first_odd(item))), "")
    return ""


def columns_of(value: object) -> tuple[JSON, dict[str, str]]:
    """Return an object without the keys that hold a NoJSON, and what is wrong with each of those.

    A half of a surrogate pair in a key becomes "?": columns are named in sentences and records.

    Raises:
        ValueError: a NoJSON inside a value that is not an object.
    """
    if not isinstance(value, dict):
        odd = first_odd(value)
        if odd:
            raise ValueError(odd)
        return cast("JSON", value), {}
    if not all(map(str.isascii, value)):
        value = {whole(key): item for key, item in value.items()}
    unread = {key: odd for key, item in value.items() if (odd := first_odd(item))}
    return (value if not unread else {key: item for key, item in value.items() if key not in unread}), unread


def list_in(value: JSON) -> Sequence[JSON] | None:
    """Return a list, also from its JSON text, with each object in it parsed from JSON text; else None."""
    for begins in (f'"{_LIST}', _LIST):  # JSON text of JSON text comes from writing twice
        if isinstance(value, str) and value.lstrip().startswith(begins):
            try:
                value = parse(value)
            except ValueError:
                return None
    if not isinstance(value, list | tuple):
        return None
    if not any(isinstance(item, str) for item in value):
        return value
    return [object_in(item) for item in value]


def object_in(value: JSON) -> JSON:
    """Parse an object from its JSON text; return any other value unchanged."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            found = parse(value)
        except ValueError:
            return value
        return found if isinstance(found, dict) else value
    return value


def offers_none(tools: object) -> bool:
    """Return whether a value of `tools` says that there are none: null, or its JSON text."""
    return tools in (None, "", "null")


def kind_of(value: object) -> str:
    """Describe a value for a sentence that refuses it."""
    if value is None:
        return "null or absent"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"the number {value}" if abs(value) < 1e30 else "a number that is too large"
    if isinstance(value, str | Mapping):
        return "text" if isinstance(value, str) else "an object"
    return "a list" if isinstance(value, list | tuple) else f"a Python {type(value).__name__}"


def list_from(value: JSON, field: str) -> Sequence[JSON]:
    """Return a list, given as such or as JSON text, also of its objects. Raises InvalidInput that names the field."""
    found = list_in(value)
    if found is None:
        raise InvalidInput(f"is {kind_of(value)}; give a list.", field=field)
    return found


def text_from(value: JSON, field: str) -> str:
    """Return a text. Raises InvalidInput that names the field."""
    if not isinstance(value, str):
        raise InvalidInput(f"is {kind_of(value)}; give text.", field=field)
    return value


def identifier_from(value: JSON) -> str:
    """Return an id as text; a whole float becomes its digits, since tables of numbers with gaps hold floats.

    Raises:
        InvalidInput: it is neither text nor a whole number.
    """
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidInput(f"is {kind_of(value)}; give text or a whole number.", field="id")
    return str(value)
