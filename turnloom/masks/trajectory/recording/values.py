"""What a recorded body sees: messages, JSON values, numbers and loops that tell what is asked of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, cast

from jinja2 import Undefined

from turnloom.masks.replay.symbols import Opaque, RefusedError, Symbol
from turnloom.masks.trajectory.programs.program import WHOLE, Missing, is_traced_key
from turnloom.masks.trajectory.recording.numbers import AT, COUNT, Fraction, Number, Sum, total
from turnloom.masks.trajectory.recording.tape import From, Tape

#: The expression of a symbol that is a constant.
_CONSTANT: Final = re.compile(r"\(K\d+\)")


class Json(Opaque):
    """A dict or list inside a message."""

    __slots__ = ("origin", "source", "tape", "value")

    def __init__(self, source: str, value: Any, origin: str, tape: Tape) -> None:
        self.source, self.value, self.origin, self.tape = source, value, origin, tape

    def __bool__(self) -> bool:
        return bool(self.tape.ask(f"len({self.source}) > 0"))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Json):
            self.tape.check()
            other.tape.check()
            return bool(self.tape.ask(f"{self.source} == {other.source}"))
        if other is None or type(other) in (str, bool, int, float, Symbol) or isinstance(other, Undefined):
            return False
        raise RefusedError("a container and something else")

    def __ne__(self, other: object) -> bool:
        return not self == other

    def length(self) -> Number:
        """Return how many values it has."""
        return Number({f"len({self.source})": 1}, len(self.value), self.tape)

    def __len__(self) -> int:
        raise RefusedError("the length of a container")

    __hash__ = Opaque.__hash__


class Dict(Json):
    """A dict inside a message."""

    __slots__ = ()

    @property  # type: ignore[misc]  # templates ask isinstance(x, dict)
    def __class__(self) -> type[dict[str, Any]]:  # type: ignore[override]
        return dict

    def __contains__(self, key: object) -> bool:
        if type(key) is not str:
            raise RefusedError("a key that is no constant")
        return self.tape.ask(f"kind_in({self.source}, {self.tape.constant(key)})") is not Missing

    def value_of(self, key: str) -> Any:
        """Return the value of a key, Missing where there is none."""
        constant = self.tape.constant(key)
        found = self.tape.ask(f"kind_in({self.source}, {constant})")
        if found is Missing:
            return Missing
        return wrapped(f"{self.source}[{constant}]", self.value[key], self.origin, found, self.tape)

    def get(self, key: object, default: object = None) -> Any:
        """Look up as `dict.get` does."""
        if type(key) is not str:
            raise RefusedError("a key that is no constant")
        found = self.value_of(key)
        return default if found is Missing else found

    def items(self) -> Pairs:
        """Return keys and values, for a loop."""
        return Pairs(self)

    def keys(self) -> list[Symbol]:
        """Return the keys: all are asked for at once, so that each is a constant from then on."""
        tape = self.tape
        keys = cast("tuple[str, ...]", tape.ask(f"tuple({self.source})"))
        origins = [From(self.origin if is_traced_key(key) else "None", tape) for key in keys]
        return [tape.symbol(tape.constant(key), key, origin) for key, origin in zip(keys, origins, strict=True)]

    def __iter__(self) -> Iterator[Symbol]:
        return iter(self.keys())

    def item(self, key: Symbol) -> Any:
        """Return the value of one of the keys."""
        atoms = key._atoms
        if len(atoms) != 1 or not _CONSTANT.fullmatch(atoms[0][0]):
            raise RefusedError("an item by a text")
        return self.value_of(atoms[0][1])


class Pairs(Opaque):
    """The keys and values of a dict, which only loops read; `ordered`: by their keys, as `dictsort` does."""

    __slots__ = ("of", "ordered")

    def __init__(self, of: Dict, *, ordered: bool = False) -> None:
        self.of, self.ordered = of, ordered


class List(Json):
    """A list inside a message."""

    __slots__ = ()

    @property  # type: ignore[misc]  # templates ask isinstance(x, list)
    def __class__(self) -> type[list[Any]]:  # type: ignore[override]
        return list

    def __contains__(self, item: object) -> bool:
        if type(item) is str:
            return bool(self.tape.ask(f"{self.tape.constant(item)} in {self.source}"))
        if type(item) is Symbol:
            return bool(self.tape.ask(f"{expression_of(item)[0]} in {self.source}"))
        raise RefusedError("a list that holds what is no text")

    def __iter__(self) -> Iterator[Any]:
        return iter([self._item(index) for index in range(cast("int", self.tape.ask(f"len({self.source})")))])

    def at(self, index: int) -> Any:
        """Return an item, Missing where there is none."""
        return self._item(index) if self.tape.ask(enough(self.source, index)) else Missing

    def _item(self, index: int) -> Any:
        source = f"{self.source}[{index}]"
        return wrapped(source, self.value[index], self.origin, self.tape.ask(f"kind({source})"), self.tape)


def enough(source: str, index: int) -> str:
    """Write the question whether a list has an item."""
    return f"len({source}) > {index}" if index >= 0 else f"len({source}) >= {-index}"


class Message(Dict):
    """A message."""

    __slots__ = ("place",)

    def __init__(self, place: Sum, value: Any, tape: Tape) -> None:
        super().__init__("m" if place == {AT: 1} else f"M[{total(place)}]", value, "", tape)
        self.place = total(place)

    def value_of(self, key: str) -> Any:
        """Return the value of a key, Missing where there is none; roles are told apart by themselves."""
        constant = self.tape.constant(key)
        if key == "role":
            role = self.tape.ask(f"role_of({self.source})")
            if role is Missing or type(role) is str:
                return role
            raise RefusedError("a role that is no text")
        found = self.tape.ask(f"kind_in({self.source}, {constant})")
        if found is Missing:
            return Missing
        from_ = f"origin({self.place}, {constant})"
        return wrapped(f"{self.source}[{constant}]", self.value[key], from_, found, self.tape)

    def items(self) -> Pairs:
        """Refuse: keys of messages would be items of other origins."""
        raise RefusedError("the items of a message")

    def keys(self) -> list[Symbol]:
        """Refuse, as above."""
        raise RefusedError("the keys of a message")


class Messages(Opaque):
    """The messages from one on."""

    __slots__ = ("backwards", "begin", "start", "tape")

    def __init__(self, tape: Tape, start: int = 0, *, backwards: bool = False, begin: Number | None = None) -> None:
        self.tape, self.start, self.backwards = tape, start, backwards
        self.begin = begin  #: of a part that begins by the position of a message: only loops read it

    @property  # type: ignore[misc]  # templates ask isinstance(x, list)
    def __class__(self) -> type[list[Any]]:  # type: ignore[override]
        return list

    def length(self) -> Number:
        """Return how many there are."""
        if self.begin is not None:
            raise RefusedError("the length of a part of the messages")
        count = len(self.tape.given.messages)
        return Number(
            {COUNT if self.tape.over_messages else "len(M)": 1, "": -self.start}, count - self.start, self.tape
        )

    def __bool__(self) -> bool:
        return bool(self.length() > 0)

    def at(self, index: object) -> Any:
        """Return a message, Missing where there is none."""
        if self.backwards or self.begin is not None:
            raise RefusedError("a message from behind")
        number = Number({"": index}, index, self.tape) if type(index) is int else index
        if type(number) is not Number:
            raise RefusedError("a message by something else than its position")
        if number < 0:
            number = number + self.length()
            if number < 0:
                return Missing
        place = number + self.start
        if not number < self.length():
            return Missing
        form = place.form
        if any(name not in (AT, "") for name in form):
            self.tape.looked(WHOLE)
        else:
            self.tape.looked(max(0, form.get("", 0)) if form.get(AT) == 1 else 0 if AT not in form else WHOLE)
        return Message(form, self.tape.given.messages[place.value], self.tape)

    def __add__(self, other: object) -> Appended:
        if type(other) is not list:
            raise RefusedError("messages and something else")
        return Appended(self, other)

    def __getitem__(self, key: object) -> Messages:
        """Return messages from one on, or all from behind; Jinja compiles slices to this."""
        if type(key) is not slice:
            raise RefusedError("a message by its position")
        if self.backwards or self.begin is not None or key.stop is not None:
            raise RefusedError("a part of the messages")
        if type(key.start) is Number and key.step is None and self.tape.over_messages:
            begin = key.start + self.start
            if begin.form.get(AT) != 1 or set(begin.form) > {AT, ""} or begin.form.get("", 0) < 0:
                raise RefusedError("a part of the messages")
            return Messages(self.tape, self.start, begin=begin)
        if key.step == -1 and key.start is None:
            return Messages(self.tape, self.start, backwards=True)
        if key.step not in (None, 1) or type(key.start) not in (int, type(None)) or (key.start or 0) < 0:
            raise RefusedError("a part of the messages")
        start = self.start + (key.start or 0)
        if not self.tape.ask(f"len(M) >= {start}"):
            raise RefusedError("a part behind the messages")
        return Messages(self.tape, start)

    __hash__ = Opaque.__hash__


class Appended(Opaque):
    """Messages, and items of the template's behind them; only loops read it."""

    __slots__ = ("messages", "others")

    def __init__(self, messages: Messages, others: list[Any]) -> None:
        self.messages, self.others = messages, others


class Loop(Opaque):
    """The loop around a body."""

    __slots__ = ("_items", "_tape")

    def __init__(self, tape: Tape, items: Any) -> None:
        self._tape, self._items = tape, items

    def attribute(self, name: str) -> Any:
        """Return one of its facts."""
        tape, given, items = self._tape, self._tape.given, self._items
        if items.messages and items.start < 0:
            raise RefusedError(f"loop.{name} of a part of the messages")
        start = items.start if items.messages else 0
        count = Number({COUNT: 1, "": -start}, given.amount - start, tape)
        if items.messages and items.backwards:
            index0 = Number({COUNT: 1, AT: -1, "": -1}, given.amount - 1 - given.at, tape)
        else:
            index0 = Number({AT: 1, "": -start}, given.at - start, tape)
        if name in ("index0", "index"):
            return index0 + (name == "index")
        if name == "length":
            return count
        if name in ("revindex", "revindex0"):
            return count - index0 - (name == "revindex0")
        if name == "first":
            return bool(index0 == 0)
        if name == "last":
            return bool(index0 == count - 1)
        if name in ("previtem", "nextitem") and items.messages and not items.backwards:
            return (
                Messages(tape, start).at(index0 - 1)
                if name == "previtem" and index0 > 0
                else (Messages(tape, start).at(index0 + 1) if name == "nextitem" else Missing)
            )
        raise RefusedError(f"loop.{name}")


class Unusable(Opaque):
    """A value that can't be handed to a body: any use refuses."""

    __slots__ = ()


def expression_of(value: Any) -> tuple[str, str]:
    """Return the expressions of a text or container, and of its origin."""
    tape: Any = value._tape if type(value) is Symbol else getattr(value, "tape", None)
    if tape is not None:
        tape.check()
    if type(value) is Symbol:
        shown = [atom for atom in value._atoms if atom[0] or atom[1]]
        if len(shown) == 1 and shown[0][0]:
            from_: Any = shown[0][2]
            if type(from_) is From:
                return shown[0][0], from_.source
    elif type(value) in (Dict, List):
        return value.source, value.origin
    raise RefusedError("a value that can't be handed on")


def wrapped(source: str, value: Any, origin: str, found: Any, tape: Tape) -> Any:
    """Return what a body sees of a JSON value whose kind was asked."""
    if found is True or found is False:
        return found
    if found is type(None):
        return None
    if found is str:
        return tape.symbol(source, value, From(origin, tape))
    if found is int:
        return Number({f"({source})": 1}, value, tape)
    if found is float:
        return Fraction(f"({source})", value, tape)
    if found is dict:
        return Dict(source, value, origin, tape)
    if found is list:
        return List(source, value, origin, tape)
    raise RefusedError(f"a value of type {found}")
