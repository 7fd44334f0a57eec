"""Which prefixes of a conversation become examples, so that every trained turn stands as it was sampled.

Turn k extends to a longer render when that begins with all of turn k's own render up to its end of turn. Knows no
tokenizer. Decisions are kept by the conversation's shape; a long conversation is decided turn by turn on windows of
its last messages and verified on real prefixes, so that the cost stays linear in what is emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.domain.conversation import Message
from turnloom.masks.domain.errors import HistoryDropped
from turnloom.masks.domain.rendered_text import RenderedText
from turnloom.masks.template.prompts import Chat
from turnloom.masks.template.shape import Signature

#: Up to so many messages every prefix is rendered once per shape; beyond, windows decide.
EXACT_MESSAGES: Final = 40
#: Messages of a window beside leading system messages.
WINDOW: Final = 12


@dataclass(frozen=True, slots=True)
class Cut:
    """One view: how many messages it shows and which of them it trains."""

    messages: int
    trained: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Renders of a conversation's beginnings, and where their last turns end."""

    render: Callable[[Sequence[Message]], RenderedText]
    end_of_last: Callable[[Sequence[Message], RenderedText], int]  #: characters; raises what locating raises


class ViewPlanner:
    """Decides views for one template under one set of settings; keeps what neighbouring turns decide."""

    def __init__(self) -> None:
        """Begin with nothing decided."""
        self._extends: BoundedCache[tuple[object, ...], bool] = BoundedCache(1024)

    def cuts(
        self,
        chat: Chat,
        messages: Sequence[Message],
        shapes: Sequence[Signature],
        turns: Sequence[int],
        prefixes: Prefixes,
    ) -> tuple[Cut, ...]:
        """Views that show every turn as it was sampled, as few as that takes, in order.

        Args:
            chat: template, settings and tools.
            messages: the whole conversation.
            shapes: their signatures.
            turns: message indices of the trained assistant turns, ascending, not empty.
            prefixes: how beginnings are rendered and located.

        Raises:
            HistoryDropped: a long conversation's turns extend in a way that neighbours do not tell.
        """
        whole = len(messages)
        if whole <= EXACT_MESSAGES:
            return _grouped(turns, whole, self._exact(messages, prefixes))
        cuts = _grouped(turns, whole, self._windowed(chat, messages, shapes, prefixes))
        _verify(messages, cuts, prefixes)
        return cuts

    def _exact(self, messages: Sequence[Message], prefixes: Prefixes) -> Callable[[int, int], bool]:
        """Compares real prefixes; each is rendered once."""
        texts: dict[int, RenderedText] = {}
        ends: dict[int, int] = {}

        def text(shown: int) -> RenderedText:
            if shown not in texts:
                texts[shown] = prefixes.render(messages[:shown])
            return texts[shown]

        def extends(turn: int, shown: int) -> bool:
            own = text(turn + 1)
            if turn not in ends:
                ends[turn] = prefixes.end_of_last(messages[: turn + 1], own)
            return text(shown).text.startswith(own.text[: ends[turn]])

        return extends

    def _windowed(
        self,
        chat: Chat,
        messages: Sequence[Message],
        shapes: Sequence[Signature],
        prefixes: Prefixes,
    ) -> Callable[[int, int], bool]:
        """Compares prefixes of the last messages alone, with the leading system messages before them."""
        head = next(
            (at for at, message in enumerate(messages) if message.get("role") not in ("system", "developer")), 0
        )

        def extends(turn: int, shown: int) -> bool:
            stop = min(shown, turn + 1 + WINDOW)
            begin = max(head, turn + 1 - WINDOW)
            while begin > head and messages[begin].get("role") != "user":
                begin -= 1
            keep = [*range(head), *range(begin, stop)]
            key = (tuple(shapes[at] for at in keep), turn - begin, chat.tools is None)
            known = self._extends.get(key)
            if known is None:
                short = [messages[at] for at in keep]
                known = self._exact(short, prefixes)(head + turn - begin, len(short))
                self._extends[key] = known
            return known

        return extends


def _grouped(turns: Sequence[int], whole: int, extends: Callable[[int, int], bool]) -> tuple[Cut, ...]:
    """Consecutive turns that extend share a view; the last view shows the whole conversation where it can."""
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


def _verify(messages: Sequence[Message], cuts: Sequence[Cut], prefixes: Prefixes) -> None:
    """Check real prefixes of half, a quarter, ... of every shared view: twice its length in all."""
    for cut in cuts:
        if len(cut.trained) == 1:
            continue
        view = prefixes.render(messages[: cut.messages]).text
        at = len(cut.trained)
        while at > 1:
            at //= 2
            turn = cut.trained[at - 1]
            own = prefixes.render(messages[: turn + 1])
            if not view.startswith(own.text[: prefixes.end_of_last(messages[: turn + 1], own)]):
                raise HistoryDropped(
                    "the template renders this turn differently once the conversation goes on, in a way that can't be"
                    " told from neighbouring turns; use on_unextendable last or as_rendered",
                    message_index=turn,
                )
