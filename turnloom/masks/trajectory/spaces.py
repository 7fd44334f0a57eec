"""Namespaces in a recording, and what they hold."""

from __future__ import annotations

from typing import Any

from jinja2.utils import Namespace

from turnloom.masks.replay.symbols import RefusedError
from turnloom.masks.trajectory.made import held_source, item_of
from turnloom.masks.trajectory.tape import Tape


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
        value = item_of(source, tape.given.values[-1], tape, origin)
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
