"""The expressions of one template's recordings, compiled."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from turnloom.masks.trajectory.programs import program
from turnloom.masks.trajectory.programs.choices import chosen
from turnloom.masks.trajectory.programs.printer import printer_source
from turnloom.masks.trajectory.programs.program import ARGUMENTS, Printed


class Code:
    """Compiles expressions of one template under one set of settings, each once."""

    def __init__(self) -> None:
        """Begin with no constant."""
        self._names: dict[Hashable, str] = {}
        self._scope: dict[str, object] = {**program.NAMES, "_add": program.add_run, "chosen": chosen}
        self._made: dict[str, Callable[..., Any]] = {}

    def constant(self, value: Hashable) -> str:
        """Return the name of a constant."""
        key = (type(value), value)
        if key not in self._names:
            self._names[key] = name = f"K{len(self._names)}"
            self._scope[name] = value
        return self._names[key]

    def shared(self, source: str) -> str:
        """Return the name of what an expression of constants gives, which is made once."""
        key = ("", source)
        if key not in self._names:
            self._names[key] = name = f"K{len(self._names)}"
            self._scope[name] = self.compiled(source)(*[None] * 7)
        return self._names[key]

    def value_of(self, name: str) -> object:
        """Return the constant of a name."""
        return self._scope[name]

    def compiled(self, source: str) -> Callable[..., Any]:
        """Compile an expression to a function of ARGUMENTS."""
        made = self._made.get(source)
        if made is None:
            made = self._made[source] = eval(f"lambda {ARGUMENTS}: {source}", self._scope)  # noqa: S307  # our own source
        return made

    def function(self, source: str, names: Mapping[str, object], **more: object) -> Callable[..., Any]:
        """Compile a function `walk` that names constants and more."""
        scope: dict[str, Any] = {**self._scope, **names, **more}
        exec(compile(source, "<walk>", "exec"), scope)  # noqa: S102  # our own source
        made: Callable[..., Any] = scope["walk"]
        return made

    def printer(self, parts: tuple[Printed, ...]) -> Callable[..., Any]:
        """Compile what prints a path's end."""
        source = printer_source(parts)
        made = self._made.get(source)
        if made is None:
            found: dict[str, Any] = {}
            exec(compile(source, "<printed>", "exec"), self._scope, found)  # noqa: S102  # our own source
            made = self._made[source] = found["printed"]
        return made
