"""A turn's bounds in a longer render, by rendering the conversation up to it. Knows no caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from turnloom.masks.domain.conversation import Message
from turnloom.masks.domain.errors import ContentNotCovered, UnlocatableTurn
from turnloom.masks.domain.rendered_text import RenderedText
from turnloom.masks.template.prompts import Chat
from turnloom.masks.template.render import render
from turnloom.masks.turns.last_turn import Turn, last_turn
from turnloom.masks.turns.text_map import TextMap, is_own, next_foreign, own_end


def prove(chat: Chat, messages: Sequence[Message], rendered: RenderedText, index: int) -> Turn:
    """The turn's bounds in `rendered`, by rendering the conversation up to it."""
    if index + 1 == len(messages):
        return last_turn(chat, messages, rendered)
    shown = messages[: index + 1]
    alone = render(shown, chat.tools, chat.template, chat.settings)
    turn = last_turn(chat, shown, alone)
    if rendered.text.startswith(alone.text[: turn.end]):
        return turn
    return _transferred(chat, messages, rendered, index, alone, turn)


def _transferred(
    chat: Chat, messages: Sequence[Message], rendered: RenderedText, index: int, alone: RenderedText, turn: Turn
) -> Turn:
    """Bounds of an earlier turn that is not rendered as it was sampled (only as_rendered asks for such)."""
    text = TextMap(rendered)
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
    closing = alone.text[turn.eot_start : turn.end]
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
