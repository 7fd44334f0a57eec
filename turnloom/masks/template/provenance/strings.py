"""`Traced`, a str that carries runs through every method a template can call. Knows Jinja's Undefined only.

Where a result can't be followed character by character it is blended. All of it counts as message text, never as the
template's literal.
"""

# ruff: noqa: D102  # the methods are those of str
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set, ValuesView
from typing import SupportsIndex

from jinja2 import Undefined

from turnloom.masks.template.provenance.runs import UNKNOWN_ORIGIN, Runs, Tag, blend, cut

#: The same characters as an exact str.
plain = str.__str__


class Traced(str):
    """A str with runs. Its one attribute begins with an underscore: the sandbox shows others to the template."""

    __slots__ = ("_runs",)
    _runs: Runs

    def __new__(cls, value: object = "") -> Traced:
        """Make text of unknown origin, for callers without runs; `traced` makes one with runs."""
        text = str(value)
        return traced(text, ((len(text), UNKNOWN_ORIGIN),) if text else ())

    def __str__(self) -> str:
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return (str, (plain(self),))

    def _part(self, start: int, stop: int) -> str:
        if start >= stop:
            return ""
        if start == 0 and stop == len(self):
            return self
        return traced(str.__getitem__(self, slice(start, stop)), cut(self._runs, start, stop))

    def _blended(self, text: str, *others: object) -> str:
        return blended(text, self, *others)

    def _cased(self, text: str) -> str:
        return traced(text, self._runs) if len(text) == len(self) else self._blended(text)

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if type(key) is slice:
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._part(start, stop)
            return self._blended(str.__getitem__(self, key))
        text = str.__getitem__(self, key)
        index = key.__index__()
        at = index + len(self) if index < 0 else index
        return traced(text, cut(self._runs, at, at + 1))

    def __iter__(self) -> Iterator[str]:
        for at in range(len(self)):
            yield self[at]

    def __add__(self, other: str) -> str:
        if type(other) is str and other and self:  # most often: a literal
            return traced(str.__add__(self, other), (*self._runs, (len(other), None)))
        if type(other) is str or type(other) is Traced:
            return concat((self, other))
        if hasattr(other, "__html__") or isinstance(other, Undefined):
            return NotImplemented
        return concat((self, other)) if isinstance(other, str) else str.__add__(self, other)  # the latter raises

    def __radd__(self, other: str) -> str:
        if type(other) is str and other and self and self._runs[0][1] is not None:  # most often: a literal
            return traced(str.__add__(other, self), ((len(other), None), *self._runs))
        if not isinstance(other, str):
            return NotImplemented
        return concat((other, self))

    def __mul__(self, times: SupportsIndex) -> str:
        return concat((self,) * max(0, times.__index__())) if hasattr(times, "__index__") else NotImplemented

    __rmul__ = __mul__

    def __mod__(self, values: object) -> str:
        return self._blended(str.__mod__(self, values), values)

    def __format__(self, spec: str) -> str:
        return self._blended(str.__format__(self, spec), spec)

    def strip(self, chars: str | None = None, /) -> str:
        length = len(str.strip(self, chars))
        start = len(self) - len(str.lstrip(self, chars))
        return self._part(start, start + length)

    def lstrip(self, chars: str | None = None, /) -> str:
        return self._part(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._part(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> str:
        return self._part(len(prefix), len(self)) if self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> str:
        return self._part(0, len(self) - len(suffix)) if self.endswith(suffix) else self

    def _found(self, pieces: Iterable[str]) -> list[str]:
        out, position = [], 0
        for piece in pieces:
            start = str.find(self, piece, position)
            position = start + len(piece)
            out.append(self._part(start, position))
        return out

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        pieces = str.split(self, sep, maxsplit)
        if sep is None:
            return self._found(pieces)
        out, position = [], 0
        for piece in pieces:
            out.append(self._part(position, position + len(piece)))
            position += len(piece) + len(sep)
        return out

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        pieces = str.rsplit(self, sep, maxsplit)
        if sep is None:
            out, stop = [], len(self)
            for piece in reversed(pieces):
                start = str.rfind(self, piece, 0, stop)
                out.append(self._part(start, start + len(piece)))
                stop = start
            return out[::-1]
        out, position = [], 0
        for piece in pieces:
            out.append(self._part(position, position + len(piece)))
            position += len(piece) + len(sep)
        return out

    def splitlines(self, keepends: bool = False) -> list[str]:
        out, position = [], 0
        for line, whole in zip(str.splitlines(self), str.splitlines(self, keepends=True), strict=True):
            out.append(self._part(position, position + len(whole if keepends else line)))
            position += len(whole)
        return out

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, _ = str.partition(self, sep)
        first, second = len(before), len(before) + len(found)
        return self._part(0, first), self._part(first, second), self._part(second, len(self))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        before, found, _ = str.rpartition(self, sep)
        first, second = len(before), len(before) + len(found)
        return self._part(0, first), self._part(first, second), self._part(second, len(self))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        if not old:
            return self._blended(str.replace(self, old, new, count), new)
        return concat(_between(new, self.split(old, count)))

    def join(self, items: Iterable[str], /) -> str:
        items = list(items)
        str.join(self, items)  # raises what join raises on an item that is not a string
        return concat(_between(self, items))

    def upper(self) -> str:
        return self._cased(str.upper(self))

    def lower(self) -> str:
        return self._cased(str.lower(self))

    def title(self) -> str:
        return self._cased(str.title(self))

    def capitalize(self) -> str:
        return self._cased(str.capitalize(self))

    def swapcase(self) -> str:
        return self._cased(str.swapcase(self))

    def casefold(self) -> str:
        return self._cased(str.casefold(self))

    def center(self, width: SupportsIndex, fill: str = " ", /) -> str:
        return self._blended(str.center(self, width, fill), fill)

    def ljust(self, width: SupportsIndex, fill: str = " ", /) -> str:
        return self._blended(str.ljust(self, width, fill), fill)

    def rjust(self, width: SupportsIndex, fill: str = " ", /) -> str:
        return self._blended(str.rjust(self, width, fill), fill)

    def zfill(self, width: SupportsIndex, /) -> str:
        return self._blended(str.zfill(self, width))

    def expandtabs(self, tabsize: SupportsIndex = 8) -> str:
        return self._blended(str.expandtabs(self, tabsize))

    def translate(self, table: object, /) -> str:
        return self._blended(str.translate(self, table), table)  # type: ignore[arg-type]  # str refuses anything but a table


# Jinja's error texts name the type of what they were given; a refusal must read as it does without provenance.
Traced.__module__, Traced.__name__ = "builtins", "str"


def traced(text: str, runs: Runs) -> Traced:
    """Return text with its runs, which sum to its length."""
    result = str.__new__(Traced, text)
    result._runs = runs
    return result


def runs_of(text: str) -> Runs:
    """Return the runs of any str; a subclass without runs was made by unknown code, so its origin is unknown."""
    if not text:
        return ()
    if type(text) is str:
        return ((len(text), None),)
    runs: Runs | None = getattr(text, "_runs", None)
    return runs if runs is not None else ((len(text), UNKNOWN_ORIGIN),)


def concat(pieces: Iterable[str]) -> str:
    """Join, runs and all; an exact str where nothing but literals came in."""
    pieces = list(pieces)
    text = "".join(pieces)
    runs: list[tuple[int, Tag]] = []
    literal = 0
    for piece in pieces:
        if type(piece) is str:
            literal += len(piece)
            continue
        added = runs_of(piece)
        if not added:
            continue
        if literal:
            runs.append((literal, None))
            literal = 0
        if runs and runs[-1][1] is added[0][1]:
            runs[-1] = (runs[-1][0] + added[0][0], added[0][1])
            runs += added[1:]
        else:
            runs += added
    if not runs:
        return text
    if literal:
        runs.append((literal, None))
    return traced(text, tuple(runs))


def _between(separator: str, items: Iterable[str]) -> Iterator[str]:
    for at, item in enumerate(items):
        if at:
            yield separator
        yield item


def tags_in(value: object) -> Iterator[Tag]:
    """Yield the tags of every string inside a value; an opaque value counts as of unknown origin."""
    if isinstance(value, str):
        for _, tag in runs_of(value):
            yield tag
    elif value is None or isinstance(value, (bool, int, float, Undefined, slice)):
        return
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tags_in(key)
            yield from tags_in(item)
    elif isinstance(value, (list, tuple, Set, ValuesView)):
        for item in value:
            yield from tags_in(item)
    else:
        yield UNKNOWN_ORIGIN


def blended(text: str, *sources: object) -> str:
    """Return text computed from these values, with one origin; an exact str where all of them are literals."""
    text = plain(text)
    if not text:
        return text
    origin = blend(tag for source in sources for tag in tags_in(source))
    return text if origin is None else traced(text, ((len(text), origin),))


def to_text(value: object = "") -> str:
    """Return `str(value)` as `{{ value }}` prints it."""
    kind = type(value)
    if kind is Traced or kind is str:
        return value  # type: ignore[return-value]  # mypy can't narrow by type()
    if isinstance(value, str):
        return concat((value,))
    return blended(str(value), value)
