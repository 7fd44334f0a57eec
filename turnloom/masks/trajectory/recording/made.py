"""Lists and dicts that a template makes of what messages say, as a recorded body sees them.

Where they are kept they hold constants, numbers, `Held` texts and values of messages, messages by their places (`At`),
and lists and dicts of these. No one changes them: `+` makes another list, as it does in a template.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import Undefined

from turnloom.masks.replay.symbols import Atom, Opaque, RefusedError, Symbol
from turnloom.masks.trajectory.programs.program import WHOLE, At, Missing, Piece
from turnloom.masks.trajectory.recording.numbers import Number, reach_of, total
from turnloom.masks.trajectory.recording.tape import From, Mark, Tape, Woven
from turnloom.masks.trajectory.recording.values import Dict, List, Message, enough, expression_of, wrapped


class Made(Opaque):
    """A list or dict of the template's own making."""

    __slots__ = ("source", "tape", "value")

    def __init__(self, source: str, value: Any, tape: Tape) -> None:
        self.source, self.value, self.tape = source, value, tape

    def __eq__(self, other: object) -> bool:
        if other is None or type(other) in (str, bool, int, float, Symbol) or isinstance(other, Undefined):
            return False
        raise RefusedError("containers that are compared")

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = Opaque.__hash__


class MadeList(Made):
    """A list."""

    __slots__ = ()

    @property  # type: ignore[misc]  # templates ask isinstance(x, list)
    def __class__(self) -> type[list[Any]]:  # type: ignore[override]
        return list

    def length(self) -> Number:
        """Return how many items it has."""
        return Number({f"len({self.source})": 1}, len(self.value), self.tape)

    def __bool__(self) -> bool:
        return bool(self.tape.ask(f"len({self.source}) > 0"))

    def at(self, index: int) -> Any:
        """Return an item, Missing where there is none."""
        if not self.tape.ask(enough(self.source, index)):
            return Missing
        return item_of(f"{self.source}[{index}]", self.value[index], self.tape)

    def __iter__(self) -> Iterator[Any]:
        count: Any = self.tape.ask(f"len({self.source})")
        return iter([item_of(f"{self.source}[{at}]", self.value[at], self.tape) for at in range(count)])

    def __contains__(self, item: object) -> bool:
        if type(item) is str:
            return bool(self.tape.ask(f"holds({self.source}, {self.tape.constant(item)})"))
        if type(item) is Symbol:
            return bool(self.tape.ask(f"holds({self.source}, {item._whole()[0]})"))
        raise RefusedError("a list that holds what is no text")

    def __add__(self, other: object) -> MadeList:
        return self._with(f"[*{self.source}, *{_items_source(other, self.tape)}]")

    def __radd__(self, other: object) -> MadeList:
        return self._with(f"[*{_items_source(other, self.tape)}, *{self.source}]")

    def _with(self, source: str) -> MadeList:
        self.tape.check()
        return MadeList(source, self.tape.run(source), self.tape)

    def joined(self, separator: object = "") -> Symbol:
        """Return what `join` gives."""
        if type(separator) is not str:
            raise RefusedError("join by a text")
        source = f"woven({self.source}, {self.tape.constant(separator)})"
        piece: Piece = self.tape.run(source)
        origin: Any = Woven(source, self.tape)
        return Symbol(((f"({source}.text)", piece.text, origin),), self.tape)  # type: ignore[arg-type]  # as Tape.symbol


class MadeDict(Made):
    """A dict; its keys are known."""

    __slots__ = ()

    @property  # type: ignore[misc]  # templates ask isinstance(x, dict)
    def __class__(self) -> type[dict[str, Any]]:  # type: ignore[override]
        return dict

    def __bool__(self) -> bool:
        return bool(self.value)

    def __contains__(self, key: object) -> bool:
        if type(key) is not str:
            raise RefusedError("a key that is no constant")
        return key in self.value

    def value_of(self, key: str) -> Any:
        """Return the value of a key, Missing where there is none."""
        if key not in self.value:
            return Missing
        return item_of(f"{self.source}[{self.tape.constant(key)}]", self.value[key], self.tape)

    def get(self, key: object, default: object = None) -> Any:
        """Look up as `dict.get` does."""
        if type(key) is not str:
            raise RefusedError("a key that is no constant")
        found = self.value_of(key)
        return default if found is Missing else found


def item_of(source: str, value: Any, tape: Tape, origin: str = "") -> Any:
    """Return what a body sees of what a list, dict or namespace holds.

    Args:
        source: expression of it.
        value: it is now.
        tape: of the body.
        origin: expression of its origin, where it has another than that of what is held.
    """
    found: Any = tape.ask(f"kind_held({source})")
    if found is Missing or found is True or found is False or type(found) is str:  # a text that is the template's own
        return found
    if found is At:
        if source != "m":
            tape.looked(WHOLE)  # of the items of a loop, which messages matter is told where it runs
        return Message({f"{source}.at": 1}, tape.given.messages[value.at], tape)
    if found is list:
        return MadeList(source, value, tape)
    if type(found) is not tuple:
        return wrapped(source, value, "None", found, tape)
    if found[0] is dict:
        return MadeDict(source, value, tape)
    if found[1] is Piece:
        whole: Any = Woven(f"{source}.value", tape)
        return Symbol(((f"{source}.value.text", value.value.text, whole),), tape)  # type: ignore[arg-type]
    return wrapped(f"{source}.value", value.value, origin or f"{source}.origin", found[1], tape)


def held_source(value: Any, tape: Tape) -> str:
    """Write what a list, dict or namespace holds of a value."""
    kind = type(value)
    if value is None or kind in (str, int, bool):
        return tape.constant(value)
    if kind is Number:
        value.tape.check()
        tape.looked(reach_of(value.form, tape))
        return total(value.form)
    if kind is Symbol and (len(value._atoms) != 1 or isinstance(value._atoms[0][2], Woven | Mark)):
        return f"Held({piece_source(value)}, None)"
    if kind is Message:
        value.tape.check()
        return f"At({value.place})"
    if isinstance(value, Made):
        value.tape.check()
        return value.source
    if kind in (Symbol, Dict, List):
        source, origin = expression_of(value)
        return f"Held({source}, {origin})"
    if kind is dict and all(type(key) is str for key in value):
        items = [f"{tape.constant(key)}: {held_source(item, tape)}" for key, item in value.items()]
        return tape.kept("{" + ", ".join(items) + "}")
    if kind in (list, tuple):
        return tape.kept(f"[{', '.join([held_source(item, tape) for item in value])}]")
    raise RefusedError("what a namespace can't hold")


def _items_source(value: Any, tape: Tape) -> str:
    if type(value) in (list, tuple) or type(value) is MadeList:
        return held_source(value, tape)
    if type(value) is List:
        value.tape.check()
        return f"[Held(item, {value.origin}) for item in {value.source}]"
    raise RefusedError("a list and something else")


def piece_source(text: Symbol) -> str:
    """Write the piece of a text of several authors, or of literals beside one."""
    tape: Any = text._tape
    tape.check()
    return f"joined([{', '.join([_piece(atom, tape) for atom in text._atoms])}])"


def _piece(atom: Atom, tape: Tape) -> str:
    name, text, from_ = atom
    if not name:
        return f"piece_of({tape.constant(text)})"
    made: Any = from_
    if isinstance(made, Mark) and made.tape is tape:
        return tape.take(made.number)
    if not isinstance(made, (From, Woven)) or made.tape is not tape:
        raise RefusedError("a text that can't be handed on")
    return made.source if isinstance(made, Woven) else f"piece_of({name}, {made.source})"
