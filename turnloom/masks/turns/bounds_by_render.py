"""A turn's bounds in a longer render, by rendering the conversation up to it. Knows no other conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from turnloom.masks.domain.conversation import Message
from turnloom.masks.domain.errors import ContentNotCovered, LayoutError, UnlocatableTurn
from turnloom.masks.domain.rendered_text import RenderedText
from turnloom.masks.template.prompts import Chat
from turnloom.masks.turns.last_turn import Turn, last_turn
from turnloom.masks.turns.span_parts import has_text
from turnloom.masks.turns.text_map import TextMap, is_own, next_foreign, own_end

#: Renders of a long conversation that are remembered.
LATEST: Final = 3


class TurnProver:
    """Locates the turns of one conversation; every beginning of it is rendered once."""

    def __init__(self, chat: Chat, messages: Sequence[Message], *, keep: bool = True) -> None:
        """Begin with nothing rendered.

        Args:
            chat: template, settings and tools.
            messages: the conversation.
            keep: remember renders; of a long conversation they would take too much.
        """
        self.chat = chat
        self.messages = messages
        self._keep = keep
        self._shown: dict[int, RenderedText] = {}
        self._turns: dict[int, Turn | LayoutError] = {}

    def shown(self, messages: int) -> RenderedText:
        """The render of the first so many messages."""
        found = self._shown.pop(messages, None) or self.chat.renders.traced(self.messages[:messages])
        self._shown[messages] = found
        if not self._keep and len(self._shown) > LATEST:
            del self._shown[next(iter(self._shown))]
        return found

    def alone(self, index: int) -> Turn:
        """The bounds of a turn in the render that ends with it.

        Raises:
            LayoutError: they can't be told.
        """
        turn = self._turns.get(index)
        if turn is None:
            try:
                turn = self._last(self.messages[: index + 1], self.shown(index + 1))
            except LayoutError as error:
                turn = error
            if self._keep:
                self._turns[index] = turn
        if isinstance(turn, LayoutError):
            raise turn
        return turn

    def _last(self, messages: Sequence[Message], rendered: RenderedText) -> Turn:
        index = len(messages) - 1
        if has_text(messages[index].get("content")) and all(
            origin is None or origin.message_index != index for _, origin in rendered.runs
        ):
            raise ContentNotCovered("the template leaves this text out", message_index=index, field="content")
        return last_turn(self.chat, messages, rendered)

    def extends(self, index: int, rendered: RenderedText) -> bool:
        """Whether a render begins with all of a turn's own render up to its end."""
        return rendered.text.startswith(self.shown(index + 1).text[: self.alone(index).end])

    def within(self, text: TextMap, messages: int, index: int) -> Turn:
        """The bounds of a turn in the render of so many messages.

        Raises:
            LayoutError: they can't be told.
        """
        if index + 1 == messages or self.extends(index, text.rendered):
            return self.alone(index)
        return _transferred(text, index, self)


def _transferred(text: TextMap, index: int, prover: TurnProver) -> Turn:
    """Bounds of an earlier turn that is not rendered as it was sampled (only as_rendered asks for such)."""
    chat, rendered, turn = prover.chat, text.rendered, prover.alone(index)
    own = text.runs_of.get(index)
    if not own:
        raise ContentNotCovered("the template prints nothing of this turn", message_index=index)
    before = max((text.starts[run + 1] for run in _others_before(text, own[0], index)), default=0)
    gap = rendered.text[before : text.starts[own[0]]]
    start = None
    for length in range(len(turn.prompt), 0, -1):
        header = turn.prompt[:length]
        if not header.strip() or chat.control.floor(header, length) != length:
            continue
        at = gap.rfind(header)
        if at >= 0 and not gap[at + length : at + length + 1].isalnum():
            start = before + at + length
            break
    last = text.starts[own_end(text, own, index)]
    tail_stop = text.starts[next_foreign(text, own[0], index)]
    tail = rendered.text[last:tail_stop]
    closing = prover.shown(index + 1).text[turn.eot_start : turn.end]
    at = tail.find(closing) if closing else 0
    if start is None or at < 0:
        raise UnlocatableTurn(
            "the template renders this earlier turn in another form than it was sampled in, and its"
            f" {'start' if start is None else 'end'} can't be told; use on_unextendable split or last",
            message_index=index,
        )
    return replace(turn, start=start, eot_start=last + at, end=last + at + len(closing), located_by="transferred")


def _others_before(text: TextMap, run: int, index: int) -> list[int]:
    while run > 0:
        run -= 1
        if not is_own(text.origin(run), index):
            return [run]
    return []
