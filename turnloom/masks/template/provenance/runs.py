"""The algebra of runs: how many characters came from where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from turnloom.masks.domain.rendered_text import UNKNOWN, Origin


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One execution of a {% generation %} block; compared by identity."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Text that a {% generation %} block printed, with the origin it has beside that."""

    block: Block
    origin: Origin | None


#: None is the template's own literal. Origins are interned per render, so equal neighbours are identical.
Tag: TypeAlias = "Origin | Generated | None"
#: (characters, tag) in order, lengths > 0 summing to the length of the text.
Runs: TypeAlias = "tuple[tuple[int, Tag], ...]"

UNKNOWN_ORIGIN: Final = Origin(UNKNOWN, "")


def cut(runs: Runs, start: int, stop: int) -> Runs:
    """Return the runs of the characters [start, stop), which lie inside."""
    if len(runs) == 1:
        return ((stop - start, runs[0][1]),)
    out: list[tuple[int, Tag]] = []
    position = 0
    for length, tag in runs:
        low = max(start, position)
        position += length
        high = min(stop, position)
        if low < high:
            out.append((high - low, tag))
        if position >= stop:
            break
    return tuple(out)


def origin_of(tag: Tag) -> Origin | None:
    """Return the origin below a block's mark."""
    return tag.origin if type(tag) is Generated else tag  # type: ignore[return-value]  # mypy can't narrow by type()


def blend(tags: Iterable[Tag]) -> Origin | None:
    """Return one origin for text in which these tags can no longer be distinguished.

    Literals give way: the result is None only where every tag is a literal.
    """
    result: Origin | None = None
    for tag in tags:
        origin = origin_of(tag)
        if origin is None or origin == result:
            continue
        if result is None:
            result = origin
        elif result.message_index == origin.message_index:
            result = Origin(origin.message_index, "")
        else:
            return UNKNOWN_ORIGIN
    return result
