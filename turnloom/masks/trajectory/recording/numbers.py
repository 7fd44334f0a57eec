"""Numbers that tell what is asked of them: positions, counts, and those inside messages."""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import eq, ge, gt, le, lt, ne
from typing import Final

from turnloom.masks.replay.symbols import Opaque, RefusedError, Symbol
from turnloom.masks.trajectory.programs.program import WHOLE
from turnloom.masks.trajectory.recording.tape import From, Tape

#: A sum: expressions and how often they stand in it, "" for the constant.
Sum = dict[str, int]
#: What a position is counted by.
COUNT, AT = "n", "a"
#: Whether an expression counts messages, where the items are messages and where they are not.
_COUNTS: Final = re.compile(r"\bn\b|\blen\(M\)|\bchosen\(")
_COUNTS_ALL: Final = re.compile(r"\blen\(M\)|\bchosen\(")


def total(form: Sum) -> str:
    """Write a sum as an expression."""
    terms = [f"{times} * {name}" if times != 1 else name for name, times in sorted(form.items()) if name and times]
    if form.get("") or not terms:
        terms.append(str(form.get("", 0)))
    return " + ".join(terms)


def reach_of(form: Sum, tape: Tape) -> int:
    """Return how many messages behind its own must be known for a sum: none, or WHOLE, as it counts them all."""
    counts = _COUNTS if tape.over_messages else _COUNTS_ALL
    return WHOLE if any(map(counts.search, form)) else 0


def depth_of(form: Sum, tape: Tape) -> int:
    """Return how many messages behind its own must be known for a sum compared with 0; WHOLE: it counts them all."""
    if not reach_of(form, tape):
        return 0
    times = form.get(COUNT, 0)
    if set(form) <= {COUNT, AT, ""} and times in (1, -1) and form.get(AT, 0) == -times:
        return max(0, -times * form.get("", 0))  # beyond so many messages behind its own, it answers the same
    return WHOLE


class Number(Opaque):
    """A whole number: a sum of what positions are counted by."""

    __slots__ = ("form", "tape", "value")

    def __init__(self, form: Sum, value: int, tape: Tape) -> None:
        self.form, self.value, self.tape = {name: times for name, times in form.items() if times}, value, tape

    @property  # type: ignore[misc]  # templates ask isinstance(x, int)
    def __class__(self) -> type[int]:  # type: ignore[override]
        return int

    def _with(self, other: object, times: int) -> Number:
        if type(other) is Number and other.tape is not self.tape:
            raise RefusedError("a number of another body")
        form, value = _form_of(other)
        added = dict(self.form)
        for name, count in form.items():
            added[name] = added.get(name, 0) + times * count
        return Number(added, self.value + times * value, self.tape)

    def __add__(self, other: object) -> Number:
        return self._with(other, 1)

    __radd__ = __add__

    def __sub__(self, other: object) -> Number:
        return self._with(other, -1)

    def __rsub__(self, other: object) -> Number:
        return (-self)._with(other, 1)

    def __neg__(self) -> Number:
        return Number({name: -times for name, times in self.form.items()}, -self.value, self.tape)

    def __mod__(self, other: object) -> Number:
        if type(other) is not int or other == 0:
            raise RefusedError("a remainder")
        return Number({f"(({total(self.form)}) % {other})": 1}, self.value % other, self.tape)

    def compared(self, other: object, operator: str, answer: Callable[[int, int], bool]) -> bool:
        """Ask how it compares."""
        difference = self._with(other, -1)
        if set(difference.form) <= {""}:
            return answer(difference.value, 0)
        self.tape.looked(depth_of(difference.form, self.tape))
        return bool(self.tape.ask(f"{total(difference.form)} {operator} 0"))

    def __bool__(self) -> bool:
        return self.compared(0, "!=", ne)

    def __eq__(self, other: object) -> bool:
        if type(other) is float or (isinstance(other, Opaque) and type(other) not in (Number, Symbol)):
            raise RefusedError("a whole number and one of another kind")  # 1 == 1.0, and a text's length is a number
        return _is_number(other) and self.compared(other, "==", eq)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: object) -> bool:
        return self.compared(other, "<", lt)

    def __le__(self, other: object) -> bool:
        return self.compared(other, "<=", le)

    def __gt__(self, other: object) -> bool:
        return self.compared(other, ">", gt)

    def __ge__(self, other: object) -> bool:
        return self.compared(other, ">=", ge)

    __hash__ = Opaque.__hash__

    def printed(self) -> Symbol:
        """Return what is printed of it, which counts as the template's own."""
        self.tape.looked(reach_of(self.form, self.tape))
        return self.tape.symbol(f"str({total(self.form)})", str(self.value), From("None", self.tape))


def _is_number(value: object) -> bool:
    return type(value) is Number or type(value) in (int, bool)


def _form_of(value: object) -> tuple[Sum, int]:
    if type(value) is Number:
        return value.form, value.value
    if type(value) in (int, bool):
        return {"": int(value)}, int(value)  # type: ignore[call-overload]  # mypy can't narrow by type()
    raise RefusedError("a number and something else")


class Fraction(Opaque):
    """A number with a decimal point: it can be printed."""

    __slots__ = ("source", "tape", "value")

    def __init__(self, source: str, value: float, tape: Tape) -> None:
        self.source, self.value, self.tape = source, value, tape

    @property  # type: ignore[misc]  # templates ask isinstance(x, float)
    def __class__(self) -> type[float]:  # type: ignore[override]
        return float

    def printed(self) -> Symbol:
        """Return what is printed of it."""
        return self.tape.symbol(f"str({self.source})", str(self.value), From("None", self.tape))
