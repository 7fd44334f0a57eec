"""Messages that `selectattr` and `rejectattr` choose."""

from __future__ import annotations

from typing import Any, Final

from turnloom.masks.replay.symbols import Opaque, RefusedError
from turnloom.masks.trajectory.programs.choices import Choice, chosen
from turnloom.masks.trajectory.programs.program import WHOLE, Missing
from turnloom.masks.trajectory.recording.numbers import Number
from turnloom.masks.trajectory.recording.tape import Tape
from turnloom.masks.trajectory.recording.values import Message

#: Tests that ask for nothing but the value and constants.
_TESTS: Final = frozenset({"eq", "==", "equalto", "ne", "!=", "defined", "undefined", "none", "string", "mapping"})
_TAKEN: Final = frozenset(dir(dict))


class Chosen(Opaque):
    """The messages that filters keep."""

    __slots__ = ("choices", "source", "start", "tape")

    def __init__(self, start: int, choices: tuple[Choice, ...], tape: Tape) -> None:
        self.start, self.choices, self.tape = start, choices, tape
        self.source = f"chosen(M, {start}, {tape.constant(choices)})"

    @property  # type: ignore[misc]  # templates ask isinstance(x, list)
    def __class__(self) -> type[list[Any]]:  # type: ignore[override]
        return list

    def also(self, kept: bool, attribute: object, test: object = None, *arguments: object, **named: object) -> Chosen:
        """Return what one more filter keeps."""
        is_constant = all(one is None or type(one) in (str, int, bool) for one in arguments)
        if named or type(attribute) is not str or test not in _TESTS or not is_constant:
            raise RefusedError("a choice of messages")
        if attribute in _TAKEN or "." in attribute or attribute.isdigit() or attribute.startswith("_"):
            raise RefusedError("a choice of messages")
        self.tape.check()
        return Chosen(self.start, (*self.choices, Choice(attribute, str(test), arguments, kept)), self.tape)

    def positions(self) -> list[int]:
        """Return where they are now."""
        return chosen(self.tape.given.messages, self.start, self.choices)

    def length(self) -> Number:
        """Return how many there are."""
        return Number({f"len({self.source})": 1}, len(self.positions()), self.tape)

    def __bool__(self) -> bool:
        return bool(self.length() > 0)

    def at(self, index: int) -> Any:
        """Return one of them, Missing where there is none."""
        if not (self.length() > index if index >= 0 else self.length() >= -index):
            return Missing
        self.tape.looked(WHOLE)
        at = self.positions()[index]
        return Message({f"{self.source}[{index}]": 1}, self.tape.given.messages[at], self.tape)

    __hash__ = Opaque.__hash__
