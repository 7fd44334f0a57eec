"""`range` over the positions of messages: a loop over these is one over the messages."""

from __future__ import annotations

from jinja2.sandbox import safe_range

from turnloom.masks.replay.symbols import Opaque, RefusedError
from turnloom.masks.trajectory.programs.program import Items
from turnloom.masks.trajectory.recording.numbers import AT, COUNT, Number
from turnloom.masks.trajectory.recording.tape import Tape


class Range(Opaque):
    """The positions from one on, or from one back to the first; only loops read them."""

    __slots__ = ("begin", "items", "tape")

    def __init__(self, items: Items, begin: Number | None, tape: Tape) -> None:
        self.items = items
        self.begin = begin  #: of the first message, where the position of a message tells it
        self.tape = tape


def positions(*arguments: object) -> object:
    """Return what `range` gives.

    Raises:
        RefusedError: other numbers than those of messages.
    """
    if not any(type(one) is Number for one in arguments):
        return safe_range(*arguments)  # type: ignore[arg-type]  # a template's mistake is told as Jinja tells it
    start, stop, step = {1: (0, *arguments, 1), 2: (*arguments, 1), 3: arguments}[len(arguments)]
    if step == 1:
        return _onwards(start, stop)
    if step == -1 and stop == -1 and type(stop) is int and type(start) is Number:
        return _back(start)
    raise RefusedError("a range of other numbers")


def _onwards(start: object, stop: object) -> Range:
    if type(stop) is not Number:
        raise RefusedError("a range that ends elsewhere than with the messages")
    tape = stop.tape
    less = -stop.form.get("", 0)  # the messages that the template left out at the beginning
    if less < 0 or {**stop.form, "": 0} != {COUNT if tape.over_messages else "len(M)": 1, "": 0}:
        raise RefusedError("a range that ends elsewhere than with the messages")
    if type(start) is int and start >= 0:
        return Range(Items(messages=True, start=start + less, less=less), None, tape)
    if type(start) is Number and tape.over_messages and start.tape is tape:
        begin = start + less
        if begin.form.get(AT) == 1 and set(begin.form) <= {AT, ""} and begin.form.get("", 0) >= 0:
            return Range(Items(messages=True, start=-1, less=less), begin, tape)
    raise RefusedError("a range that begins elsewhere than with a message")


def _back(start: Number) -> Range:
    tape, form = start.tape, start.form
    if tape.over_messages and form.get(AT) == 1 and set(form) <= {AT, ""} and form.get("", 0) <= 0:
        return Range(Items(messages=True, start=-1, backwards=True, less=0), start, tape)
    raise RefusedError("a range that begins elsewhere than with a message")
