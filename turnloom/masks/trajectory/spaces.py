"""Namespaces in a recording, and what they hold."""

from __future__ import annotations

from typing import Any

from jinja2.utils import Namespace

from turnloom.masks.replay.symbols import Atom, Opaque, RefusedError, Symbol
from turnloom.masks.trajectory.numbers import Number, reach_of, total
from turnloom.masks.trajectory.program import Held, Missing, Piece
from turnloom.masks.trajectory.tape import From, Tape, Woven
from turnloom.masks.trajectory.values import expression_of, wrapped


class Space(Namespace):
    """A namespace whose attributes are read and set in the recording."""

    def __init__(self, tape: Tape, variable: int) -> None:
        super().__init__()
        object.__setattr__(self, "_tape", tape)
        object.__setattr__(self, "_variable", variable)
        object.__setattr__(self, "_known", {})

    def __getattribute__(self, name: str) -> Any:
        if name in ("_tape", "_variable", "_known", "__class__", "attribute", "forget"):
            return object.__getattribute__(self, name)
        raise RefusedError(f"a namespace's {name}")

    def attribute(self, name: str) -> Any:
        """Return what it holds under a name, Missing where it holds nothing."""
        known, tape = self._known, self._tape
        tape.check()  # a macro may hand on the namespace of the body around a loop, whose steps have set it since
        if name in known:
            return known[name]
        source, origin = tape.load(self._variable, name)
        found = tape.ask(f"kind_held({source})")
        held = tape.given.values[-1]
        if type(found) is str or found is Missing:  # a text that is the template's own
            value: Any = found
        elif found == (Held, Piece):
            whole: Any = Woven(f"{source}.value", tape)
            value = Symbol(((f"({source}.value.text)", held.value.text, whole),), tape)
        elif type(found) is tuple:
            value = wrapped(f"{source}.value", held.value, origin, found[1], tape)
        else:
            value = wrapped(source, held, "None", found, tape)
        known[name] = value
        return value

    def forget(self) -> None:
        """Read anew what a loop may have set."""
        self._known.clear()

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise RefusedError("an underscore")
        self._tape.store(self._variable, name, held_source(value, self._tape))
        self._known[name] = value


def held_source(value: Any, tape: Tape) -> str:
    """Write what a namespace holds of a value."""
    if value is None or type(value) in (str, int, bool):
        return tape.constant(value)
    if type(value) is Number:
        value.tape.check()
        tape.looked(reach_of(value.form, tape))
        return total(value.form)
    if type(value) is Symbol and (len(value._atoms) != 1 or isinstance(value._atoms[0][2], Woven)):
        return f"Held({piece_source(value)}, None)"
    if isinstance(value, Opaque):
        source, origin = expression_of(value)
        return f"Held({source}, {origin})"
    raise RefusedError("what a namespace can't hold")


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
    if not isinstance(made, (From, Woven)) or made.tape is not tape:
        raise RefusedError("a text that can't be handed on")
    return made.source if isinstance(made, Woven) else f"piece_of({name}, {made.source})"
