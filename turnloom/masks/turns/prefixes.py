"""Which prefixes of a conversation become examples, so that every trained turn stands as it was sampled.

Turn k extends to a longer render when that begins with turn k's own, up to its end of turn. Every conversation is
decided by its own renders. A long one is decided turn by turn on windows of its last messages, and verified on real
prefixes. So the cost stays linear in what is emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from turnloom.masks.domain.conversation import Message
from turnloom.masks.domain.errors import HistoryDropped
from turnloom.masks.domain.rendered_text import RenderedText
from turnloom.masks.template.shape import Signature

#: Up to so many messages every prefix is rendered; beyond, windows decide.
EXACT_MESSAGES: Final = 64
#: Messages of a window beside leading system messages.
WINDOW: Final = 12


@dataclass(frozen=True, slots=True)
class Cut:
    """One view: how many messages it shows and which of them it trains."""

    messages: int
    trained: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prefixes:
    """The beginnings of one conversation."""

    messages: Sequence[Message]
    shown: Callable[[int], RenderedText]  #: the text of the first so many messages, the last as it was sampled
    end: Callable[[int], int]  #: where a turn ends in the text that ends with it, in characters; raises LayoutError

    def extends(self, turn: int, shown: int) -> bool:
        """Whether the text of so many messages begins with a turn's own up to its end."""
        return self.shown(shown).text.startswith(self.shown(turn + 1).text[: self.end(turn)])


def cuts(
    whole: Prefixes,
    turns: Sequence[int],
    shapes: Callable[[], Sequence[Signature]],
    prefixes_of: Callable[[Sequence[Message]], Prefixes],
) -> tuple[Cut, ...]:
    """Return the fewest views that show every turn as it was sampled, in order.

    Args:
        whole: of the conversation.
        turns: message indices of the trained assistant turns, ascending, not empty.
        shapes: gives the signatures of all messages.
        prefixes_of: the beginnings of other messages under the same settings and tools.

    Raises:
        LayoutError: the end of a turn can't be told.
        HistoryDropped: a long conversation's turns extend in a way that neighbours do not tell.
    """
    messages = len(whole.messages)
    if messages <= EXACT_MESSAGES:
        whole.shown(messages)  # first, so that what it prints need not be printed again
        return grouped(turns, messages, whole.extends)
    found = grouped(turns, messages, _windowed(whole.messages, shapes(), prefixes_of))
    _verify(whole, found)
    return found


def _windowed(
    messages: Sequence[Message], shapes: Sequence[Signature], prefixes_of: Callable[[Sequence[Message]], Prefixes]
) -> Callable[[int, int], bool]:
    """Compare prefixes of the last messages alone, with the leading system messages before them."""
    head = next((at for at, message in enumerate(messages) if message.get("role") not in ("system", "developer")), 0)
    decided: dict[tuple[object, ...], bool] = {}

    def extends(turn: int, shown: int) -> bool:
        stop = min(shown, turn + 1 + WINDOW)
        begin = max(head, turn + 1 - WINDOW)
        while begin > head and messages[begin].get("role") != "user":
            begin -= 1
        keep = [*range(head), *range(begin, stop)]
        key = (tuple(shapes[at] for at in keep), turn - begin)
        if key not in decided:
            short = prefixes_of([messages[at] for at in keep])
            decided[key] = short.extends(head + turn - begin, len(keep))
        return decided[key]

    return extends


def grouped(turns: Sequence[int], whole: int, extends: Callable[[int, int], bool]) -> tuple[Cut, ...]:
    """Group consecutive turns that extend into one view; the last shows the whole conversation where it can."""
    cuts: list[Cut] = []
    group = [turns[0]]
    for turn in turns[1:]:
        if extends(group[-1], turn + 1):
            group.append(turn)
        else:
            cuts.append(Cut(group[-1] + 1, tuple(group)))
            group = [turn]
    shown = whole if group[-1] + 1 == whole or extends(group[-1], whole) else group[-1] + 1
    return (*cuts, Cut(shown, tuple(group)))


def _verify(whole: Prefixes, cuts: Sequence[Cut]) -> None:
    """Check real prefixes of half, a quarter, ... of every shared view: twice its length in all."""
    for cut in cuts:
        at = len(cut.trained)
        while at > 1:
            at //= 2
            turn = cut.trained[at - 1]
            if not whole.extends(turn, cut.messages):
                raise HistoryDropped(
                    "the template renders this turn differently once the conversation goes on, in a way that can't be"
                    " told from neighbouring turns; use on_unextendable last or as_rendered",
                    message_index=turn,
                )
