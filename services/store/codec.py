"""Encode frozen dataclasses as JSON text and decode them, exactly.

Floats are written by Python's repr and read by strtod, so every double survives. Scripts may read such text but never
write it again, because Lua's encoder keeps 14 digits only.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import TypeVar, cast

Record = TypeVar("Record")


class RecordNotReadable(ValueError):
    """Stored text did not match the record; the message names record and field."""


def encode(record: object) -> str:
    """Encode a dataclass as a compact JSON object; keys in the order of its fields."""
    return json.dumps(plain(record), separators=(",", ":"), ensure_ascii=False)


def decode(kind: type[Record], text: str) -> Record:
    """Read what `encode` wrote. Unknown keys are ignored and absent ones take their defaults, so records may grow."""
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordNotReadable(f"{kind.__name__}: not JSON ({error})") from None
    return cast(Record, build(kind, value, kind.__name__))


def plain(value: object) -> object:
    """Convert dataclasses, enums, tuples and mappings to what `json` writes."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Enum):
        return cast(object, value.value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def build(kind: object, value: object, where: str) -> object:
    """Make a value of type `kind` from parsed JSON; `where` names it in errors."""
    if kind is type(value) and kind in _PLAIN:
        return value
    origin, arguments = _shape(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return build(next(item for item in arguments if item is not types.NoneType), value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        table = _expect(dict, value, where)
        return {key: build(arguments[1], item, f"{where}.{key}") for key, item in table.items()}
    if origin is tuple:
        return tuple(
            build(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(_expect(list, value, where))
        )
    if isinstance(kind, type) and is_dataclass(kind):
        return _build_dataclass(kind, _expect(dict, value, where), where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise RecordNotReadable(f"{where}: {value!r} is no {kind.__name__}") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is not kind:
        raise RecordNotReadable(f"{where}: expected {kind.__name__}, found {type(value).__name__}")
    return value


_PLAIN = frozenset({str, int, float, bool})


@cache
def _shape(kind: object) -> tuple[object, tuple[object, ...]]:
    """Return origin and arguments of a type."""
    return typing.get_origin(kind), typing.get_args(kind)


@cache
def _fields(kind: type) -> tuple[tuple[str, object, bool], ...]:
    """Return name, type and whether it may be absent, of each field of a dataclass."""
    return tuple(
        (item.name, hints(kind)[item.name], item.default is not MISSING or item.default_factory is not MISSING)
        for item in fields(kind)
    )


def _build_dataclass(kind: type, table: dict[str, object], where: str) -> object:
    values: dict[str, object] = {}
    for name, hint, may_be_absent in _fields(kind):
        if name in table:
            values[name] = build(hint, table[name], f"{where}.{name}")
        elif not may_be_absent:
            raise RecordNotReadable(f"{where}.{name}: missing")
    return kind(**values)


@cache
def hints(kind: type) -> dict[str, object]:
    """Return the types of a dataclass's fields, resolved once."""
    return dict(typing.get_type_hints(kind))


Plain = TypeVar("Plain", dict, list)  # type: ignore[type-arg]  # the element types are checked one level down


def _expect(kind: type[Plain], value: object, where: str) -> Plain:
    if not isinstance(value, kind):
        raise RecordNotReadable(f"{where}: expected {kind.__name__}, found {type(value).__name__}")
    return value
