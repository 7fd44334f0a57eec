"""What the characters inside a message span are: reasoning, content, tool calls, scaffold, end of turn.

The origin tells: a character of `reasoning_content` is reasoning, one of `tool_calls` a tool call. Reasoning given
inside `content` as `<think>...</think>` counts as reasoning where the template splits it off. It does so where it
prints the closing marker itself between two stretches of the content. Printed unchanged, it is content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from turnloom.masks.domain.conversation import JSON, REASONING_FIELDS
from turnloom.masks.domain.rendered_text import Kind, Origin, Part

_KIND_OF_FIELD: Final = {
    **dict.fromkeys(REASONING_FIELDS, Kind.REASONING),
    "tool_calls": Kind.TOOL_CALL,
    "function_call": Kind.TOOL_CALL,
}
#: What closes reasoning inside content, as the templates at hand spell it.
CLOSERS: Final = ("</think>", "[/THINK]", "</seed:think>", "<|end_thinking|>", "<|END_THINKING|>", "</thinking>")

#: What opens it, in the same order.
_OPENERS: Final = ("<think>", "[THINK]", "<seed:think>", "<|start_thinking|>", "<|START_THINKING|>", "<thinking>")
#: A block of reasoning with nothing in it.
EMPTY_BLOCK: Final = re.compile(
    "|".join(rf"{re.escape(one)}\s*{re.escape(other)}" for one, other in zip(_OPENERS, CLOSERS, strict=True))
)

#: (start, text, origin) of a run inside a message span.
Piece = tuple[int, str, "Origin | None"]


def parts_of(pieces: Sequence[Piece], eot_start: int, end: int, content: JSON) -> tuple[Part, ...]:
    """Return the parts that cover the message span without holes, neighbours of one kind joined.

    Args:
        pieces: the message span's runs up to eot_start, cut to it.
        eot_start: first character of the end-of-turn literal.
        end: end of the message span.
        content: the message's content, to tell reasoning that the template split off.
    """
    split_at = _split(pieces, content)
    parts: list[Part] = []
    for start, text, origin in pieces:
        kind = Kind.SCAFFOLD if origin is None else _KIND_OF_FIELD.get(origin.field, Kind.CONTENT)
        if kind is Kind.CONTENT and start < split_at:
            kind = Kind.REASONING
        _append(parts, start, start + len(text), kind)
    if end > eot_start:
        _append(parts, eot_start, end, Kind.EOT)
    return tuple(parts)


def _append(parts: list[Part], start: int, end: int, kind: Kind) -> None:
    if parts and parts[-1].kind is kind:
        parts[-1] = Part(parts[-1].start, end, kind)
    elif end > start:
        parts.append(Part(start, end, kind))


def _split(pieces: Sequence[Piece], content: JSON) -> int:
    """Return where the template closes reasoning that it split off the content; 0 where it splits nothing."""
    if not isinstance(content, str):
        return 0
    closers = [closer for closer in CLOSERS if closer in content]
    for start, text, origin in pieces if closers else ():
        if origin is None and any(closer in text for closer in closers):
            return start
    return 0


def has_text(content: JSON) -> bool:
    """Whether content has a character other than white space."""
    if isinstance(content, str):
        return bool(content) and not content.isspace()
    if isinstance(content, (list, tuple)):
        return any(has_text(part.get("text")) if isinstance(part, Mapping) else has_text(part) for part in content)
    return False
