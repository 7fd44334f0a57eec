"""Locate where a turn ends: after what the template prints for it whatever follows."""

from __future__ import annotations

from collections.abc import Sequence

from turnloom.masks.domain.conversation import Message
from turnloom.masks.domain.errors import UnlocatableTurn
from turnloom.masks.template.prompts import PLAIN_REPLY, PROBE, Chat, common_length


def end_of_turn(chat: Chat, messages: Sequence[Message], text: str, last: int) -> tuple[int, int, bool]:
    """Return (first character of the end-of-turn literal, character after it, whether there is one).

    A turn that is followed by the same text as an earlier one of its conversation ends as that did.
    """
    key = (text[last:], *messages[-1])
    ending = chat.known.ends.get(key)
    if ending is None:
        begin, end, closed = _proved(chat, messages, text, last)
        ending = chat.known.ends[key] = begin - last, end - last, closed
    return last + ending[0], last + ending[1], ending[2]


def _proved(chat: Chat, messages: Sequence[Message], text: str, last: int) -> tuple[int, int, bool]:
    tail = text[last:]
    followed = chat.text([*messages, PROBE])
    shared = len(tail)
    if followed is not None and followed.startswith(text[:last]):
        shared = common_length(tail, followed[last:])
    if shared < len(tail):
        return _changing_end(chat, messages, text, last, followed[last:] if followed else "", shared)
    closing = tail.rstrip()
    if not closing:
        return last, last, False
    token = chat.control.last(closing)
    begin = token[0] if token is not None else len(closing) - len(closing.lstrip())
    return last + begin, last + len(closing), True


def _changing_end(
    chat: Chat, messages: Sequence[Message], text: str, last: int, followed: str, shared: int
) -> tuple[int, int, bool]:
    """Find `end_of_turn` where text changes when a message follows: at `shared` characters after `last`.

    Either the turn is over there and the whole text has an ending of its own. Then the role header of the next message
    follows at once. Or the last turn is closed otherwise than earlier ones.
    """
    tail = text[last:]
    if not tail.strip():
        return last, last, False
    closing = _plain_closing(chat, messages)
    if not closing:
        kept = _without_header(chat, tail[: chat.control.floor(tail, shared)])
        token = chat.control.last(kept)
        if token is not None and (header := _next_header(chat, followed[len(kept) :])):
            if not _is_header(chat, messages, text[:last], kept, followed, header):
                raise UnlocatableTurn(
                    f"the template prints {kept!r} after this turn and then {header!r} where a message follows; whether"
                    " that still closes the turn can't be told",
                    message_index=len(messages) - 1,
                )
            return last + token[0], last + token[1], True
        rest = tail[len(kept) :].strip()
        closing = rest if chat.control.last(rest) == (0, len(rest)) else ""
    if closing and tail.count(closing) == 1:
        at = last + tail.index(closing)
        return at, at + len(closing), True
    raise UnlocatableTurn(
        f"the template ends this turn with {tail!r} where it is the last one and otherwise when another message"
        " follows, so its end can't be told",
        message_index=len(messages) - 1,
    )


def _without_header(chat: Chat, kept: str) -> str:
    """Remove the tokens that begin the next role header from text after a turn: those that begin a whole render."""
    alone = chat.text([PROBE]) or ""
    opening: set[str] = set()
    position = 0
    for start, end in chat.control.spans(alone):
        if alone[position:start].strip():
            break
        opening.add(alone[start:end])
        position = end
    token = chat.control.last(kept)
    while token is not None and kept[slice(*token)] in opening and not kept[token[1] :].strip():
        kept = kept[: token[0]]
        token = chat.control.last(kept)
    return kept


def _next_header(chat: Chat, literal: str) -> str:
    """Return the text before the probe's content if it also precedes it where no message came before; else ""."""
    question = str(PROBE["content"])
    alone = chat.text([PROBE])
    header = (literal[: literal.index(question)] if question in literal else "").strip()
    before = alone[: alone.find(question)].rstrip() if alone is not None else ""
    return header if before.endswith(header) else ""


def _is_header(chat: Chat, messages: Sequence[Message], shown: str, kept: str, followed: str, header: str) -> bool:
    """Whether what looks like the next role header is only that.

    A template with a default system prompt prints that prompt's closing before the first header. So a closing could
    pass for a part of it. Where a reply can follow a reply, what both followers have in common shows it. Elsewhere the
    header must begin where a token ends, and not with a token that closes the probe.
    """
    reply = str(PLAIN_REPLY["content"])
    other = chat.text([*messages, PLAIN_REPLY]) or ""
    rest = other[len(shown) :] if other.startswith(shown) else ""
    if reply in rest and rest.startswith(kept) and rest[len(kept) : rest.index(reply)].strip():
        common = _without_header(chat, rest[: chat.control.floor(rest, common_length(rest, followed))])
        return len(common.rstrip()) <= len(kept.rstrip())
    question = str(PROBE["content"])
    alone = chat.text([PROBE]) or ""
    at = alone.find(question)
    closing = alone[at + len(question) :]
    before = alone[:at].rstrip().removesuffix(header).rstrip()
    token = chat.control.last(before)
    closers = {closing[start:end] for start, end in chat.control.spans(closing)}
    first = next((header[start:end] for start, end in chat.control.spans(header)), "")
    return first not in closers and (not before or (token is not None and token[1] == len(before)))


def _plain_closing(chat: Chat, messages: Sequence[Message]) -> str:
    """Return the end-of-turn literal of a plain reply in this place; "" where there is none."""
    if messages[-1] == PLAIN_REPLY:
        return ""
    plain = [*messages[:-1], PLAIN_REPLY]
    text = chat.text(plain)
    reply = str(PLAIN_REPLY["content"])
    if text is None or reply not in text:
        return ""
    try:
        eot_start, end, _ = end_of_turn(chat, plain, text, text.rindex(reply) + len(reply))
    except UnlocatableTurn:
        return ""
    return text[eot_start:end]
