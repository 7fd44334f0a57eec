"""Write values that a program made as JSON, and find what JSON can't hold, and where; parsed JSON has nothing of it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from datetime import date, time
from math import isfinite
from typing import Final, NamedTuple

from turnloom.characters import is_broken
from turnloom.errors import InvalidInput

#: Characters of a place that a sentence shows.
SHOWN: Final = 120
#: The rest of a sentence, wherever Python's recursion ends before a value does.
TOO_DEEP: Final = "is nested too deeply"
PLAIN: Final = "Give text, numbers, lists and objects, few inside others."  #: a hint
NO_TEXT: Final = "has a key that is no text"
_FLOAT32: Final = struct.Struct("<f")
_KEYS: Final = (str, int, float, bool, type(None))  #: what JSON writes as text


class Unfit(NamedTuple):
    """The first value that JSON can't hold."""

    place: str  #: below the value that was looked into: ".function.arguments.day", "[0].x", or empty
    what: str  #: the rest of a sentence: "is a date, which JSON can't hold"


class NotPlain(ValueError):
    """A value can't be written as JSON."""

    def __init__(self, unfit: Unfit) -> None:
        """Keep the place and what is wrong there."""
        super().__init__(f"{unfit.place.removeprefix('.')}: {unfit.what}".removeprefix(": "))
        self.place, self.what = unfit


def json_text(value: object, *, finite: bool = True) -> str:
    """Write a value as JSON; unless `finite`, also NaN and Infinity, which are none.

    Raises:
        NotPlain: with the place of what JSON can't hold.
    """
    try:
        return (_FINITE if finite else _ANY).encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotPlain(why_not(value, finite=finite)) from error


def text_of(value: object, field: str) -> str:
    """Write a field's value as JSON. Raises InvalidInput that names the place of what JSON can't hold."""
    try:
        return json_text(value)
    except NotPlain as error:
        raise InvalidInput(f"{error.what}.", field=field + error.place, hint=PLAIN) from error


def as_float32(number: float) -> float | None:
    """Return a weight as float32 holds it, as which it is stored and sent; None: it is too large, negative or NaN."""
    try:
        (held,) = _FLOAT32.unpack(_FLOAT32.pack(number))
    except (OverflowError, struct.error):
        return None
    return held if isfinite(held) and held >= 0 else None


def shown(value: object) -> str:
    """Return a value as files of JSON and TOML have it, where Python says True or datetime.date(2026, 1, 31)."""
    if isinstance(value, bool):
        return json.dumps(value)
    return str(value) if isinstance(value, date | time) else repr(value)


def why_not(value: object, *, finite: bool = True) -> Unfit:
    """Return why a value can't be written that Python gave up on: what JSON can't hold in it, else its depth."""
    return unfit(value, finite=finite) or Unfit("", TOO_DEEP)


def unfit(value: object, *, finite: bool = True, text_keys: bool = False) -> Unfit | None:
    """Return the first value inside a value that JSON can't hold; None: there is none.

    Takes no room on the stack, so that a value may be nested as deeply as it likes, or hold itself.

    Args:
        value: lists, tuples and mappings of anything.
        finite: whether NaN and Infinity count, too.
        text_keys: whether keys count that are no text, though JSON can write them as text.
    """
    root, keys = [value], (str,) if text_keys else _KEYS
    path: list[tuple[str, object, Iterator[tuple[str | None, object]]]] = [("", root, iter([("", value)]))]
    around, known = {id(root)}, set[int]()
    while path:
        for step, inner in path[-1][2]:
            what = "holds itself" if id(inner) in around else _what(step, inner, finite=finite)
            if what:
                place = "".join([*(taken for taken, *_ in path), step or ""])
                return Unfit(place if len(place) <= SHOWN else place[:SHOWN] + "…", f"{what}, which JSON can't hold")
            if isinstance(inner, Mapping | list | tuple) and id(inner) not in known:
                path.append((step or "", inner, _inside(inner, keys)))
                around.add(id(inner))
                break
        else:
            _, done, _ = path.pop()
            around.discard(id(done))
            known.add(id(done))
    return None


def too_deep(document: object) -> Unfit:
    """Return the value of a conversation that is nested deepest: a message's, a tool, or another column's.

    For where Python's recursion ended. Takes no room on the stack either, and ends where a value holds itself.
    """
    columns = document if isinstance(document, Mapping) else {"messages": document}
    place, _ = max(_values(columns), key=lambda found: _depth(found[1]), default=("", None))
    return Unfit(place, TOO_DEEP)


def place_of_half(value: object, place: str = "") -> str:
    """Return where half of a surrogate pair stands, as a text or in a key; empty: nowhere, or in the value itself."""
    if isinstance(value, str):
        return place if is_broken(value) else ""
    if isinstance(value, Mapping):
        if any(isinstance(key, str) and is_broken(key) for key in value):
            return place
        steps = ((f"{place}.{key}", inner) for key, inner in value.items())
    elif isinstance(value, list | tuple):
        steps = ((f"{place}[{at}]", inner) for at, inner in enumerate(value))
    else:
        return ""
    return next((found for step, inner in steps if (found := place_of_half(inner, step))), "")


def _values(columns: Mapping[object, object]) -> Iterator[tuple[str, object]]:
    """Yield the values of a conversation that a sentence can name, with their places."""
    for column, value in columns.items():
        if not isinstance(value, list | tuple):
            yield f".{column}", value
            continue
        for index, item in enumerate(value):
            if column == "messages" and isinstance(item, Mapping):
                yield from ((f".messages[{index}].{key}", inner) for key, inner in item.items())
            else:
                yield f".{column}[{index}]", item


def _depth(value: object) -> int:
    """Return how many lists and objects a value has inside each other; one that stands at two places counts once."""
    depth, level, seen = 0, [value], set[int]()
    while level:
        around = {id(one): one for one in level if isinstance(one, Mapping | list | tuple) and id(one) not in seen}
        seen.update(around)
        depth += bool(around)
        level = [inner for one in around.values() for inner in (one.values() if isinstance(one, Mapping) else one)]
    return depth


def _as_dict(value: object) -> dict[object, object]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


# Made once: `json.dumps` makes an encoder at each call, which takes longer than a tool call's arguments.
_FINITE: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_as_dict)
_ANY: Final = json.JSONEncoder(ensure_ascii=False, default=_as_dict)


def _inside(
    value: Mapping[object, object] | list[object] | tuple[object, ...], keys: tuple[type, ...]
) -> Iterator[tuple[str | None, object]]:
    """Yield each value in a list or object with the step that leads to it; None: its key is of none of these types."""
    if isinstance(value, Mapping):
        return ((f".{key}" if isinstance(key, keys) else None, inner) for key, inner in value.items())
    return ((f"[{index}]", inner) for index, inner in enumerate(value))


def _what(step: str | None, value: object, *, finite: bool) -> str:
    """Return why a value, or the key that leads to it, is nothing of JSON's; empty: it is."""
    if step is None:
        return NO_TEXT
    if isinstance(value, float) and finite and not isfinite(value):
        return f"is {value}"
    if value is None or isinstance(value, str | bool | int | float | Mapping | list | tuple):
        return ""
    return f"is a Python {type(value).__name__}"
