"""Texts that a template marks as safe, and what they are joined to."""

from __future__ import annotations

from typing import Any, cast

from markupsafe import escape

from turnloom.masks.replay.symbols import Opaque, RefusedError, Symbol, joined


class Safe(Opaque):
    """A text marked as safe: it can be printed and joined; `+` escapes what is joined to it where there is need."""

    __slots__ = ("text",)

    def __init__(self, text: Symbol) -> None:
        self.text = text

    def __add__(self, other: object) -> Safe:
        return self._joined(self.text, other)

    def __radd__(self, other: object) -> Safe:
        return self._joined(other, self.text)

    def _joined(self, *parts: Any) -> Safe:
        joining: list[Symbol | str] = []
        for part in parts:
            if type(part) is Safe:
                joining.append(part.text)
            elif part is self.text:
                joining.append(self.text)
            elif type(part) in (str, Symbol):
                joining.append(_escaped(part))
            else:
                raise RefusedError("a text that is escaped")
        return Safe(cast("Symbol", joined(joining)))


def _escaped(text: Symbol | str) -> Symbol | str:
    """Escape a text that is joined to one marked as safe: character by character, so each part by itself."""
    if type(text) is str:
        return str(escape(text))
    tape: Any = text._tape  # type: ignore[union-attr]  # mypy can't narrow by type()
    parts: list[Symbol | str] = []
    for name, now, origin in text._atoms:  # type: ignore[union-attr]
        if not name:
            parts.append(str(escape(now)))
            continue
        if name.startswith("?"):
            raise RefusedError("a loop's text that is escaped")
        if tape.guard(f"escape({name}) != {name}", str(escape(now)) != now):
            parts.append(tape.symbol(f"str(escape({name}))", str(escape(now)), origin))
        else:
            parts.append(Symbol(((name, now, origin),), tape))
    return joined(parts)
