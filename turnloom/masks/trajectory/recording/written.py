"""Texts that are made of a value as a whole: JSON, and what is printed of a dict or list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from turnloom.masks.replay.symbols import RefusedError, Symbol
from turnloom.masks.template.provenance.filters import json_text
from turnloom.masks.trajectory.recording.numbers import Fraction, Number, reach_of, total
from turnloom.masks.trajectory.recording.tape import From, Tape
from turnloom.masks.trajectory.recording.values import Dict, Json, List


class Written(NamedTuple):
    """A value of a template's own making: an expression of it, the value now, and what it is made of."""

    source: str
    value: Any
    origins: tuple[str, ...]  #: expressions of the origins of the texts in it


def parts_of(value: Any, tape: Tape) -> Written:
    """Look into a dict or list that a template made of constants and of what messages say."""
    kind = type(value)
    if kind is dict:
        made = [(tape.constant(key), parts_of(item, tape)) for key, item in value.items()]
        if not all(type(key) is str for key in value):
            raise RefusedError("a key that is no constant")
        source = "{" + ", ".join(f"{key}: {part.source}" for key, part in made) + "}"
        return Written(source, dict(zip(value, (part.value for _, part in made), strict=True)), _joined(made))
    if kind in (list, tuple):
        items = [("", parts_of(item, tape)) for item in value]
        source = f"[{', '.join(part.source for _, part in items)}]"
        return Written(source, [part.value for _, part in items], _joined(items))
    if value is None or kind in (str, bool, int):
        return Written(tape.constant(value), value, ())
    if kind is Number:
        tape.looked(reach_of(value.form, tape))
        return Written(f"({total(value.form)})", value.value, ())
    if kind is Fraction:
        return Written(value.source, value.value, ())
    if kind is Symbol:
        if any(not isinstance(atom[2], From) for atom in value._atoms if atom[0]):
            raise RefusedError("a text of a loop")
        tape.check()
        source, text = value._whole()
        return Written(source, text, tuple([f"({a[2].source} if {a[0]} else None)" for a in value._atoms if a[0]]))
    if kind is Dict or isinstance(value, List):
        tape.check()
        return Written(value.source, value.value, (f"({value.origin} if has_text({value.source}) else None)",))
    raise RefusedError(f"a value of type {kind.__name__}")


def _joined(parts: Iterable[tuple[str, Written]]) -> tuple[str, ...]:
    return tuple([origin for _, part in parts for origin in part.origins if origin != "None"])


def _blended(parts: Written) -> str:
    """Write the origin of a text that is made of a value as a whole, as `provenance.runs.blend` tells it."""
    distinct = tuple(dict.fromkeys(parts.origins))
    if not distinct:
        return "None"
    return distinct[0] if len(distinct) == 1 else f"blend(({', '.join(distinct)}))"


def written(value: Any, tape: Tape, arguments: Mapping[str, Any]) -> Symbol:
    """Return what `tojson` writes."""
    tape.check()
    for argument in arguments.values():
        if argument is not None and type(argument) not in (bool, int, str, tuple):
            raise RefusedError("tojson with another argument")
    names = ("ensure_ascii", "indent", "separators", "sort_keys")
    given = ", ".join(tape.constant(arguments[name]) for name in names)
    parts = parts_of(value, tape)
    text = json_text(parts.value, *(arguments[name] for name in names))
    return tape.symbol(f"json_text({parts.source}, {given})", text, From(_blended(parts), tape))


def printed(value: Json, tape: Tape) -> Symbol:
    """Return what is printed of a container."""
    tape.check()
    return tape.symbol(f"str({value.source})", str(value.value), From(_blended(parts_of(value, tape)), tape))
