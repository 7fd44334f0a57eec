"""Markup with runs: the result of `|safe` and `|escape` on a traced string.

Markup escapes whatever is joined to it, and templates rely on the resulting text; only the runs are added here.
"""

# ruff: noqa: D102, S704  # the methods are those of Markup; what is marked here is compared with Markup, never served
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, SupportsIndex

from markupsafe import Markup, escape

from turnloom.masks.template.provenance.runs import Runs
from turnloom.masks.template.provenance.strings import Traced, blended, concat, plain, runs_of, to_text, traced


class TracedMarkup(Markup):
    """Markup that keeps runs; `str()` of it is a Traced string."""

    __slots__ = ("_runs",)
    _runs: Runs

    def __new__(cls, value: object = "") -> TracedMarkup:
        """Make text of unknown origin; `safe` and `escaped` make one with its runs."""
        return _marked(to_text(Traced(plain(str(value)))))

    def __str__(self) -> str:
        return _text(self)

    def __html__(self) -> TracedMarkup:
        return self

    def __add__(self, value: Any, /) -> TracedMarkup:
        if not isinstance(value, str) and not hasattr(value, "__html__"):
            return NotImplemented
        return _marked(concat((_text(self), _escaped(value))))

    def __radd__(self, value: Any, /) -> TracedMarkup:
        if not isinstance(value, str) and not hasattr(value, "__html__"):
            return NotImplemented
        return _marked(concat((_escaped(value), _text(self))))

    def __mul__(self, times: SupportsIndex, /) -> TracedMarkup:
        return _marked(_text(self) * times)

    __rmul__ = __mul__

    def __getitem__(self, key: SupportsIndex | slice, /) -> TracedMarkup:
        return _marked(_text(self)[key])

    def join(self, items: Iterable[Any], /) -> TracedMarkup:
        return _marked(_text(self).join([_escaped(item) for item in items]))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> TracedMarkup:
        return _marked(_text(self).replace(old, _escaped(new), count))


def safe(value: object) -> TracedMarkup:
    """Return `Markup(value)` with runs."""
    return _marked(to_text(value))


def escaped(value: object) -> TracedMarkup:
    """Return `escape(value)` with runs."""
    return _marked(_escaped(value))


def _marked(text: str) -> TracedMarkup:
    result = str.__new__(TracedMarkup, text)
    result._runs = runs_of(text)
    return result


def _text(markup: str) -> str:
    return traced(plain(markup), runs_of(markup)) if markup else ""


def _escaped(value: object) -> str:
    """Escape text run by run: characters are escaped one by one, so that is exact."""
    if isinstance(value, TracedMarkup):
        return _text(value)
    if not isinstance(value, str) or isinstance(value, Markup):
        return blended(str(escape(value)), value)
    pieces, position = [], 0
    for length, tag in runs_of(value):
        piece = str(escape(plain(value)[position : position + length]))
        pieces.append(traced(piece, ((len(piece), tag),)))
        position += length
    return concat(pieces)


def _exact(name: str) -> Callable[..., Any]:
    """Make a method whose result Traced can follow; Markup does not escape its arguments either."""

    def method(self: TracedMarkup, *args: Any, **kwargs: Any) -> Any:
        result = getattr(Traced, name)(_traced(self), *args, **kwargs)
        return _marked(result) if isinstance(result, str) else type(result)(_marked(item) for item in result)

    method.__name__ = name
    return method


def _blurred(name: str) -> Callable[..., Any]:
    """Make a method whose result is blended: Markup's own text, one origin."""

    def method(self: TracedMarkup, *args: Any, **kwargs: Any) -> Any:
        text = getattr(Markup, name)(Markup(plain(self)), *args, **kwargs)
        blurred = blended(str(text), self, args, kwargs)
        return _marked(blurred) if isinstance(text, Markup) else blurred

    method.__name__ = name
    return method


def _traced(markup: TracedMarkup) -> Traced:
    return traced(plain(markup), runs_of(markup))


_EXACT = "strip lstrip rstrip split rsplit splitlines partition rpartition removeprefix removesuffix upper lower title"
_BLURRED = "__mod__ capitalize swapcase casefold center ljust rjust zfill expandtabs translate unescape striptags"
_METHODS: Mapping[str, Callable[..., Any]] = {
    **{name: _exact(name) for name in _EXACT.split()},
    **{name: _blurred(name) for name in _BLURRED.split()},
}
for _name, _method in _METHODS.items():
    setattr(TracedMarkup, _name, _method)
