"""How the variables of one body are handed to the body of a loop inside it."""

from __future__ import annotations

from collections.abc import Hashable
from types import FunctionType
from typing import Any, Final, NamedTuple

from jinja2 import Undefined
from jinja2.runtime import Macro

from turnloom.masks.replay.symbols import RefusedError, Symbol, is_symbolic
from turnloom.masks.template.environment import TemplateDict
from turnloom.masks.trajectory.recording.chosen import Chosen
from turnloom.masks.trajectory.recording.made import Made, MadeDict, MadeList, item_of, piece_source
from turnloom.masks.trajectory.recording.numbers import Fraction, Number, reach_of, total
from turnloom.masks.trajectory.recording.spaces import Space
from turnloom.masks.trajectory.recording.tape import From, Given, Tape, Woven
from turnloom.masks.trajectory.recording.values import (
    Dict,
    List,
    Message,
    Messages,
    Unusable,
    expression_of,
    wrapped,
)

#: Kinds of variables that may be others the next time; namespaces are looked at by themselves.
VARYING: Final = frozenset({"text", "woven", "made", "message", "json", "number", "fraction"})
#: Kinds of variables by which a body reads messages.
SHOWING: Final = frozenset({"message", "messages", "chosen", "made"})
#: Kinds of objects that every render of a template finds under the same names.
COMMON: Final = (FunctionType, TemplateDict)


class Tools(List):
    """The tools; a loop over them depends on no message."""

    __slots__ = ()


class Handed(NamedTuple):
    """A variable as it is handed to a body."""

    kind: Hashable
    source: str = "None"
    origin: str = "None"


class Later(NamedTuple):
    """An item whose kind is asked when its body begins."""

    source: str
    value: Any
    origin: str
    tape: Tape

    def now(self) -> Any:
        """Ask for its kind and return what the body sees of it."""
        return wrapped(self.source, self.value, self.origin, self.tape.ask(f"kind({self.source})"), self.tape)


class LaterHeld(NamedTuple):
    """The same of an item of a list of the template's."""

    value: Any
    tape: Tape

    def now(self) -> Any:
        """Ask for its kind and return what the body sees of it."""
        return item_of("m", self.value, self.tape)


def handed(value: Any) -> Handed:
    """Return how a variable is handed to a body, with its kind."""
    own: Any = value._tape if type(value) is Space else getattr(value, "tape", None) if is_symbolic(value) else None
    if own is not None and not own.is_current():
        return Handed(("unusable",))  # of the body around a macro's: most such loops use it in no way
    if isinstance(value, Undefined):
        return Handed(("undefined", value._undefined_name))
    if isinstance(value, Macro):
        raise RefusedError("a macro under another name")  # nothing tells what it reads
    if value is None or type(value) in (str, int, bool):
        return Handed(("constant", type(value), value))
    if type(value) is Symbol:
        try:
            return Handed(("text",), *expression_of(value))
        except RefusedError:
            pass
        try:
            return Handed(("woven",), piece_source(value))
        except RefusedError:
            return Handed(("unusable",))
    if type(value) is Tools:
        return Handed(("tools",), value.source, value.origin)
    if type(value) is Message:
        return Handed(("message",), value.place)
    if type(value) in (Dict, List):
        return Handed(("json", type(value)), value.source, value.origin)
    if type(value) is Messages:
        return Handed(("messages", value.start, value.backwards) if value.begin is None else ("unusable",))
    if isinstance(value, Made):
        return Handed(
            ("made", type(value), *value.value) if type(value) is MadeDict else ("made", MadeList), value.source
        )
    if type(value) is Chosen:
        return Handed(("chosen", value.start, value.choices))
    if type(value) is Number:
        value.tape.looked(reach_of(value.form, value.tape))
        return Handed(("number",), total(value.form))
    if type(value) is Fraction:
        return Handed(("fraction",), value.source)
    if type(value) is Space:
        return Handed(("space",), f"V[{value._variable}]")
    if is_symbolic(value):
        return Handed(("unusable",))
    if isinstance(value, list | tuple | dict | float):
        return Handed(("constant", type(value), repr(value)) if is_constant(value) else ("unusable",))
    return Handed(("object", value) if isinstance(value, COMMON) else ("unusable",))


def is_constant(value: Any) -> bool:
    """Whether a value is the template's own, of scalars of JSON and containers of these."""
    if isinstance(value, dict):
        return all(is_constant(part) for item in value.items() for part in item)
    if isinstance(value, list | tuple):
        return all(map(is_constant, value))
    return value is None or type(value) in (str, int, bool, float)


def taken(kind: Any, at: int, value: Any, given: Given, tape: Tape) -> Any:
    """Return what a body sees of a variable."""
    name = kind[0]
    source, origin, held = f"V[{at}]", f"O[{at}]", given.values[at]
    if name == "text":
        return tape.symbol(source, held, From(origin, tape))
    if name == "woven":
        return Symbol(((f"{source}.text", held.text, Woven(source, tape)),), tape)  # type: ignore[arg-type]
    if name == "tools":
        return Tools(source, held, origin, tape)
    if name == "json":
        return kind[1](source, held, origin, tape)
    if name == "message":
        return Message({source: 1}, given.messages[held], tape)
    if name == "messages":
        return Messages(tape, kind[1], backwards=kind[2])
    if name == "made":
        return kind[1](source, held, tape)
    if name == "chosen":
        return Chosen(kind[1], kind[2], tape)
    if name == "number":
        return Number({source: 1}, held, tape)
    if name == "fraction":
        return Fraction(source, held, tape)
    if name == "space":
        return Space(tape, at)
    return Unusable() if name == "unusable" else value
