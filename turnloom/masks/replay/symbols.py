"""Symbolic strings of a template's trial run. They are not str, so every operation not recorded here is refused.

A symbol stands for a string that differs in the next conversation. Methods that return strings become lines of the
replay. Whatever returns anything else (truth, equality, `in`) becomes a guard with the recorded answer. A conversation
whose guards all answer the same takes the same path through the template. So it prints the same expressions.
"""

# ruff: noqa: D102  # the methods are those of str
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import eq, ge, gt, le, lt, ne
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from jinja2 import Undefined

from turnloom.masks.domain.rendered_text import Origin

if TYPE_CHECKING:
    from turnloom.masks.replay.recording import Recording

#: (name of a variable of the replay, or "" for a literal; its text in this run; its origin, None for a literal).
Atom: TypeAlias = "tuple[str, str, Origin | None]"


class RefusedError(BaseException):
    """The template used an operation the recorder does not support. A BaseException: Jinja catches some Exceptions."""


def listed(values: Iterable[object], constant: Callable[[Any], str]) -> str:
    """Return the names of constants, as they stand in a call.

    Args:
        values: of which texts, whole numbers and null are constants.
        constant: names one.
    """
    names = []
    for value in values:
        if value is not None and type(value) not in (str, int):
            raise RefusedError("an argument that is no constant")
        names.append(constant(value))
    return ", ".join(names)


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise RefusedError(name)

    return refuse


_SPECIAL: Final = (
    "str repr format hash int float index complex iter len reversed bool contains getitem call add radd sub rsub mul"
    " rmul mod rmod truediv rtruediv floordiv rfloordiv pow rpow neg pos abs eq ne lt le gt ge and or xor invert round"
    " trunc copy deepcopy reduce reduce_ex fspath bytes enter exit next"
)


class Opaque:
    """A value that answers nothing unless a subclass says how."""

    __slots__ = ()


for _name in _SPECIAL.split():
    setattr(Opaque, f"__{_name}__", _refusing(_name))


#: How questions that are operators stand in a replay.
_OPERATORS: Final = {"__contains__": "{arguments} in {name}", "__eq__": "{name} == {arguments}"}


class Symbol(Opaque):
    """A string of the trial run: literals and variables in a row."""

    __slots__ = ("_atoms", "_tape")

    def __init__(self, atoms: tuple[Atom, ...], recording: Recording) -> None:
        self._atoms = atoms
        self._tape = recording

    @property  # type: ignore[misc]  # templates and Jinja ask isinstance(x, str); C code looks at the type instead
    def __class__(self) -> type[str]:  # type: ignore[override]
        return str

    def _one(self) -> tuple[str, str, Origin] | str:
        """Return the only variable that this consists of now, or the literal where it has none."""
        atoms = [atom for atom in self._atoms if atom[1]] if len(self._atoms) > 1 else list(self._atoms)
        if len(atoms) < len(self._atoms):
            for name, text, _ in self._atoms:
                if name and not text:
                    self._tape.guard(name, False)
        if not any(name for name, _, _ in atoms):
            return "".join(text for _, text, _ in atoms)
        name, text, origin = atoms[0]
        if len(atoms) > 1 or origin is None:
            raise RefusedError("a method of a joined string")
        return name, text, origin

    def _whole(self) -> tuple[str, str]:
        """Return an expression of all that this consists of, and what it gives now."""
        names = [name or self._tape.constant(text) for name, text, _ in self._atoms]
        if any(name.startswith("?") for name in names):
            raise RefusedError("a method of a loop's text")
        return f"({' + '.join(names)})", "".join(text for _, text, _ in self._atoms)

    def _derived(self, method: str, *arguments: object) -> Symbol | str:
        one = self._one()
        if isinstance(one, str):
            return str(getattr(one, method)(*arguments))
        name, text, origin = one
        expression = f"{name}.{method}({self._tape.arguments(arguments)})"
        return self._tape.symbol(expression, getattr(text, method)(*arguments), origin)

    def _answer(self, method: str, *arguments: object) -> bool:
        if not any(name for name, _, _ in self._atoms):
            return bool(getattr(self._whole()[1], method)(*arguments))
        name, text = self._whole()
        form = _OPERATORS.get(method, "{name}.{method}({arguments})")
        expression = form.format(name=name, method=method, arguments=self._tape.arguments(arguments))
        return self._tape.guard(expression, getattr(text, method)(*arguments))

    def _parts(self, method: str, *arguments: object) -> SymbolParts | list[str] | list[Symbol]:
        if len(self._atoms) > 1 and type(arguments[0]) is str and arguments[0] and arguments[1] == -1:
            return self._pieces(arguments[0])
        one = self._one()
        if isinstance(one, str):
            return list(getattr(one, method)(*arguments))
        name, text, origin = one
        expression = self._tape.name(f"{name}.{method}({self._tape.arguments(arguments)})")
        return SymbolParts(expression, getattr(text, method)(*arguments), origin, self._tape)

    def _pieces(self, separator: str) -> list[Symbol]:
        """Split where literals spell the separator; a guard says that nothing else does."""
        pieces: list[list[Atom]] = [[]]
        for atom in self._atoms:
            if atom[0]:
                pieces[-1].append(atom)
                continue
            first, *others = atom[1].split(separator)
            pieces[-1] += [("", first, None)] if first else []
            pieces += [[("", text, None)] if text else [] for text in others]
        made = [Symbol(tuple(piece) or (("", "", None),), self._tape) for piece in pieces]
        name, text = self._whole()
        wanted = [one._whole() for one in made]
        if [one[1] for one in wanted] != text.split(separator):
            raise RefusedError("a text that spells a separator")
        self._tape.guard(
            f"{name}.split({self._tape.constant(separator)}) == [{', '.join(one[0] for one in wanted)}]", True
        )
        return made

    def strip(self, chars: str | None = None) -> Symbol | str:
        if len(self._atoms) == 1:
            return self._derived("strip", chars)
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None) -> Symbol | str:
        return self._stripped("lstrip", chars, first=0)

    def rstrip(self, chars: str | None = None) -> Symbol | str:
        return self._stripped("rstrip", chars, first=-1)

    def _stripped(self, method: str, chars: str | None, first: int) -> Symbol | str:
        """Strip at one end: an atom that nothing is left of goes, and the next is stripped."""
        atoms = list(self._atoms)
        while len(atoms) > 1:
            one = Symbol((atoms[first],), self._tape)._derived(method, chars)
            if one:
                atoms[first : first + 1 or None] = atoms_of(one)
                return Symbol(tuple(atoms), self._tape)
            del atoms[first]
        return Symbol(tuple(atoms), self._tape)._derived(method, chars)

    def split(self, sep: str | None = None, maxsplit: int = -1) -> SymbolParts | list[str] | list[Symbol]:
        return self._parts("split", sep, maxsplit)

    def rsplit(self, sep: str | None = None, maxsplit: int = -1) -> SymbolParts | list[str] | list[Symbol]:
        return self._parts("rsplit", sep, maxsplit)

    def startswith(self, prefix: object) -> bool:
        return self._answer("startswith", prefix)

    def endswith(self, suffix: object) -> bool:
        return self._answer("endswith", suffix)

    def replace(self, old: str, new: str, count: int = -1) -> Symbol | str:
        """Replace only where there is nothing to replace: inserted text would be the template's own."""
        if type(old) is not str or not old or old in self:
            raise RefusedError("replace")
        return self

    def __contains__(self, item: object) -> bool:
        return self._answer("__contains__", item)

    def __getitem__(self, key: object) -> Symbol | str:
        if type(key) is not slice or not all(one is None or type(one) is int for one in (key.start, key.stop)):
            raise RefusedError("a character")
        one = self._one()
        if key.step is not None or isinstance(one, str) or one[0].startswith("?"):
            raise RefusedError("a part of a text")
        name, text, origin = one
        start, stop = ["" if end is None else str(end) for end in (key.start, key.stop)]
        return self._tape.symbol(f"{name}[{start}:{stop}]", text[key], origin)

    def __eq__(self, other: object) -> bool:
        if type(other) is str:
            return self._answer("__eq__", other)
        if type(other) is Symbol:
            if other._tape is not self._tape:
                raise RefusedError("texts of two bodies")
            (name, text), (other_name, other_text) = self._whole(), other._whole()
            return self._tape.guard(f"{name} == {other_name}", text == other_text)
        if other is None or type(other) in (bool, int, float, list, dict, tuple) or isinstance(other, Undefined):
            return False
        raise RefusedError("==")

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = Opaque.__hash__

    def __bool__(self) -> bool:
        if any(text and not name for name, text, _ in self._atoms):
            return True
        return any(self._tape.guard(name, bool(text)) for name, text, _ in self._atoms if name)

    def __add__(self, other: object) -> Symbol | str:
        if type(other) is not Symbol and is_symbolic(other):
            return NotImplemented  # it may know how
        return joined((self, other))

    def __radd__(self, other: object) -> Symbol | str:
        return joined((other, self))


class SymbolLength(Opaque):
    """The length of a symbol: it can be compared with a number."""

    __slots__ = ("_count", "_name", "_tape")

    def __init__(self, symbol: Symbol) -> None:
        self._tape = symbol._tape
        names = [name or str(len(text)) for name, text, _ in symbol._atoms]
        self._name = " + ".join(name if name.isdecimal() else f"len({name})" for name in names) or "0"
        self._count = sum(len(text) for _, text, _ in symbol._atoms)

    @property  # type: ignore[misc]  # as in Symbol
    def __class__(self) -> type[int]:  # type: ignore[override]
        return int

    def _compared(self, operator: str, other: object, answer: Callable[[int, int], bool]) -> bool:
        if type(other) is not int:
            raise RefusedError("a length and no number")
        return self._tape.guard(f"{self._name} {operator} {other}", answer(self._count, other))

    def __bool__(self) -> bool:
        return self._compared(">", 0, gt)

    def __eq__(self, other: object) -> bool:
        return self._compared("==", other, eq)

    def __ne__(self, other: object) -> bool:
        return self._compared("!=", other, ne)

    def __lt__(self, other: object) -> bool:
        return self._compared("<", other, lt)

    def __le__(self, other: object) -> bool:
        return self._compared("<=", other, le)

    def __gt__(self, other: object) -> bool:
        return self._compared(">", other, gt)

    def __ge__(self, other: object) -> bool:
        return self._compared(">=", other, ge)

    __hash__ = Opaque.__hash__


class SymbolParts(Opaque):
    """What a split gives: a list whose length is a guard where it matters."""

    __slots__ = ("_name", "_origin", "_tape", "_texts")

    def __init__(self, name: str, texts: list[str], origin: Origin, recording: Recording) -> None:
        self._name, self._texts, self._origin, self._tape = name, texts, origin, recording

    @property  # type: ignore[misc]  # as in Symbol
    def __class__(self) -> type[list[str]]:  # type: ignore[override]
        return list

    def __len__(self) -> int:
        count = len(self._texts)
        self._tape.guard(f"len({self._name}) == {count}", True)
        return count

    def __bool__(self) -> bool:
        return len(self) > 0

    def __getitem__(self, key: object) -> Symbol:
        if type(key) is not int:
            raise RefusedError("a slice of parts")
        if not -len(self) <= key < len(self._texts):
            raise IndexError(key)
        return self._tape.symbol(f"{self._name}[{key}]", self._texts[key], self._origin)

    def __iter__(self) -> Iterator[Symbol]:
        return iter([self[at] for at in range(len(self))])

    __hash__ = Opaque.__hash__


def contains(text: Symbol | str, part: Symbol | str) -> bool:
    """Whether a text has another in it, one of them a symbol; `str` itself takes no symbol for a part."""
    whole = text if type(text) is Symbol else part
    assert type(whole) is Symbol, "asked for only then"
    tape = whole._tape
    (name, now), (part_name, part_now) = [
        one._whole() if type(one) is Symbol else (tape.constant(one), str(one)) for one in (text, part)
    ]
    return tape.guard(f"{part_name} in {name}", part_now in now)


def joined(pieces: Iterable[object]) -> Symbol | str:
    """Join; an exact str where nothing but literals came in."""
    atoms: list[Atom] = []
    recording: Recording | None = None
    for piece in pieces:
        if type(piece) is Symbol:
            recording = piece._tape
            added: tuple[Atom, ...] = piece._atoms
        elif type(piece) is str:
            added = (("", piece, None),)
        else:
            raise RefusedError(f"text of type {type(piece).__name__}")
        for atom in added:
            if not atom[0] and atoms and not atoms[-1][0]:
                atoms[-1] = ("", atoms[-1][1] + atom[1], None)
            elif atom[0] or atom[1]:
                atoms.append(atom)
    return "".join(text for _, text, _ in atoms) if recording is None else Symbol(tuple(atoms), recording)


def between(separator: object, items: Iterable[object]) -> Iterator[object]:
    """Yield items with a separator between them."""
    for at, item in enumerate(items):
        if at:
            yield separator
        yield item


def atoms_of(text: Symbol | str) -> tuple[Atom, ...]:
    """Return the literals and variables of a text."""
    return text._atoms if type(text) is Symbol else (("", str(text), None),)


def is_plain(value: object) -> bool:
    """Whether a value is a scalar of JSON, or undefined: a filter may take it as it is."""
    return value is None or type(value) in (str, int, float, bool) or isinstance(value, Undefined)


def is_symbolic(value: object) -> bool:
    """Whether a value is symbolic rather than plain."""
    return issubclass(type(value), Opaque)
