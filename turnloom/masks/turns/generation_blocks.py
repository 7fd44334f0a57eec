"""Message spans from the template's own {% generation %} blocks (mask=template).

A block is honoured as it stands. What it printed is the span, also where it printed inside a macro or a set block.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence

from turnloom.masks.domain.conversation import Message
from turnloom.masks.domain.errors import Interleaved, UnlocatableTurn
from turnloom.masks.domain.rendered_text import Located, MessageSpan, RenderedText
from turnloom.masks.template.added_token_text import AddedTokenFinder
from turnloom.masks.turns.span_parts import parts_of
from turnloom.masks.turns.text_map import TextMap, pieces_between


def block_spans(
    messages: Sequence[Message], rendered: RenderedText, wanted: Collection[int], control: AddedTokenFinder
) -> Located:
    """Return one message span per block that printed text of a wanted assistant message, in order of the text.

    A block without any message's text belongs to the assistant message between its neighbours.

    Raises:
        UnlocatableTurn: a wanted assistant message has no block.
        Interleaved: a block shows text of two messages.
    """
    text = TextMap(rendered)
    message_spans = []
    begins = []
    for start, end in rendered.generation_blocks:
        index = _owner(messages, text, start, end)
        if index in wanted:
            message_spans.append(_region(messages, text, index, start, end, control))
        if index >= 0 and messages[index].get("role") == "assistant":
            begins.append((index, start))
    missing = sorted(
        index
        for index in set(wanted) - {span.message_index for span in message_spans}
        if messages[index].get("role") == "assistant"
    )
    if missing:
        raise UnlocatableTurn("no {% generation %} block prints this turn", message_index=missing[0])
    return Located(tuple(message_spans), (), tuple(begins))


def _owner(messages: Sequence[Message], text: TextMap, start: int, end: int) -> int:
    """Return the message whose text the block shows; for an empty reply, the one at that position."""
    owners = {
        origin.message_index
        for _, _, origin in pieces_between(text, start, end)
        if origin and origin.message_index >= 0
    }
    if len(owners) > 1:
        raise Interleaved(
            f"one {{% generation %}} block shows text of messages {sorted(owners)}", message_index=min(owners)
        )
    if owners:
        return owners.pop()
    run = bisect_right(text.starts, start) - 1
    before = -1
    while run >= 0 and before < 0:
        origin = text.origin(run)
        before = origin.message_index if origin is not None and origin.message_index >= 0 else -1
        run -= 1
    for index in range(before + 1, len(messages)):
        if messages[index].get("role") == "assistant":
            return index
    return before


def _region(
    messages: Sequence[Message], text: TextMap, index: int, start: int, end: int, control: AddedTokenFinder
) -> MessageSpan:
    literal = text.rendered.text[start:end]
    token = control.last(literal)
    closed = token is not None and not literal[token[1] :].strip() and _is_literal(text, start + token[0])
    eot_start = start + token[0] if closed and token else end
    parts = parts_of(list(pieces_between(text, start, eot_start)), eot_start, end, messages[index].get("content"))
    return MessageSpan(index, str(messages[index]["role"]), start, eot_start, end, end, "generation_block", parts)


def _is_literal(text: TextMap, position: int) -> bool:
    return text.origin(bisect_right(text.starts, position) - 1) is None
