"""The questions of a trial run, which become the lines of a replay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from turnloom.masks.domain.rendered_text import Origin
from turnloom.masks.replay.symbols import RefusedError, Symbol, listed

#: Lines of a replay, and pieces that it prints: a template that walks through the parts of a text makes one of each for
#: every part, and compiling 200,000 of them takes a minute and a gigabyte. 24 messages take 300 at most elsewhere.
LONGEST_RECORDING: Final = 1024


class Recording:
    """The lines of a replay, in the order in which the template asked."""

    def __init__(self) -> None:
        """Begin empty."""
        self.lines: list[str] = []
        self.constants: dict[str, object] = {}  #: name -> value; texts never become source
        self._names: dict[object, str] = {}  #: expression, or constant -> name
        self._guards: dict[str, bool] = {}

    def constant(self, value: object) -> str:
        """Return the name of a constant."""
        key = (type(value), value)
        if key not in self._names:
            self._names[key] = f"K{len(self.constants)}"
            self.constants[self._names[key]] = value
        return self._names[key]

    def name(self, expression: str) -> str:
        """Return the name of an expression's value."""
        if expression not in self._names:
            self._names[expression] = f"v{len(self.lines)}"
            self._add(f"{self._names[expression]} = {expression}")
        return self._names[expression]

    def expressions(self) -> dict[str, str]:
        """Return each variable's name with the expression that it stands for."""
        return {name: expression for expression, name in self._names.items() if isinstance(expression, str)}

    def symbol(self, expression: str, text: str, origin: Origin) -> Symbol:
        """Return the symbol of an expression that gives a string."""
        return Symbol(((self.name(expression), text, origin),), self)

    def guard(self, expression: str, answer: bool) -> bool:
        """Record an expression's answer; the replay gives up where the answer differs."""
        if expression not in self._guards:
            self._guards[expression] = answer
            self._add(f"if {'not ' if answer else ''}({expression}): return None")
        return answer

    def _add(self, line: str) -> None:
        if len(self.lines) >= LONGEST_RECORDING:
            raise RefusedError("too many lines")
        self.lines.append(line)

    def arguments(self, values: Iterable[object]) -> str:
        """Return constants as they stand in a call."""
        return listed(values, self.constant)
