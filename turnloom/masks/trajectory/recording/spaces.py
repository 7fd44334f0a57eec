"""Namespaces in a recording, and what they hold."""

from __future__ import annotations

from typing import Any

from jinja2.utils import Namespace

from turnloom.masks.replay.symbols import RefusedError
from turnloom.masks.trajectory.recording.made import held_source, item_of
from turnloom.masks.trajectory.recording.tape import Tape


class Space(Namespace):
    """A namespace whose attributes are read and set in the recording."""

    def __init__(self, tape: Tape, variable: int) -> None:
        super().__init__()
        object.__setattr__(self, "_tape", tape)
        object.__setattr__(self, "_variable", variable)
        object.__setattr__(self, "_known", {})

    def __getattribute__(self, name: str) -> Any:
        if name in ("_tape", "_variable", "_known", "__class__", "attribute", "forget", "here", "_given"):
            return object.__getattribute__(self, name)
        raise RefusedError(f"a namespace's {name}")

    def attribute(self, name: str) -> Any:
        """Return what it holds under a name, Missing where it holds nothing."""
        known, tape = self._known, self._tape
        if not tape.is_current():  # a macro reads that of the body around a loop, whose steps have set it since
            return self._given().attribute(name)
        if name in known:
            return known[name]
        source, origin = tape.load(self._variable, name)
        value = item_of(source, tape.given.values[-1], tape, origin)
        known[name] = value
        return value

    def here(self) -> Space | None:
        """Return the same namespace as the body that runs was given it; None: it was not."""
        found: Space | None = self._tape.here(self)
        return found

    def _given(self) -> Space:
        found = self.here()
        if found is None:
            raise RefusedError("a value of another body")
        return found

    def forget(self) -> None:
        """Read anew what a loop may have set."""
        self._known.clear()

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise RefusedError("an underscore")
        if not self._tape.is_current():
            self._given()[name] = value
            return
        self._tape.store(self._variable, name, held_source(value, self._tape))
        self._known[name] = value
