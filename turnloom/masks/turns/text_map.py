"""A rendered text by runs: where they start and whose they are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from turnloom.masks.domain.rendered_text import Origin, RenderedText
from turnloom.masks.turns.span_parts import Piece


class TextMap:
    """One rendered text by runs: where they start, and which belong to which message."""

    def __init__(self, rendered: RenderedText) -> None:
        """Index the runs in one pass."""
        self.rendered = rendered
        self.starts: list[int] = []  #: of every run, and the length of the text at the end
        self.runs_of: dict[int, list[int]] = {}  #: message index -> its runs in order
        position = 0
        for at, (length, origin) in enumerate(rendered.runs):
            self.starts.append(position)
            position += length
            if origin is not None:
                self.runs_of.setdefault(origin.message_index, []).append(at)
        self.starts.append(position)

    def origin(self, run: int) -> Origin | None:
        """Return the origin of a run."""
        return self.rendered.runs[run][1]

    def literal(self, run: int) -> str:
        """Return the text of a run."""
        return self.rendered.text[self.starts[run] : self.starts[run + 1]]


def pieces_between(text: TextMap, start: int, stop: int) -> Iterator[Piece]:
    """Yield the runs between two positions, the outer ones cut."""
    run = bisect_right(text.starts, start) - 1
    while start < stop:
        end = min(stop, text.starts[run + 1])
        yield start, text.rendered.text[start:end], text.origin(run)
        start, run = end, run + 1


def is_own(origin: Origin | None, index: int) -> bool:
    """Whether a run is a literal or the message's own."""
    return origin is None or origin.message_index == index


def next_foreign(text: TextMap, run: int, index: int) -> int:
    """Return the first run from `run` on that is another message's; the number of runs where there is none."""
    while run < len(text.rendered.runs) and is_own(text.origin(run), index):
        run += 1
    return run


def own_end(text: TextMap, own: Sequence[int], index: int) -> int:
    """Return the run after the message's last own run before another message's text."""
    stop = next_foreign(text, own[0], index)
    return max(run for run in own if run < stop) + 1


def trailing_end(text: TextMap, end: int) -> int:
    """Return the end of the literal white space that follows."""
    while end < text.starts[-1]:
        run = bisect_right(text.starts, end) - 1
        if text.origin(run) is not None:
            break
        literal = text.rendered.text[end : text.starts[run + 1]]
        end += len(literal) - len(literal.lstrip())
        if literal.strip():
            break
    return end
