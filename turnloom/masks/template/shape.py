"""The shape of a conversation: all that a template's decisions can depend on, without the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from turnloom.masks.domain.conversation import JSON, Message

#: A hashable value; equal for messages that a template treats alike.
Signature: TypeAlias = "tuple[object, ...]"

#: The keys of most messages.
_PLAIN: Final = ["role", "content"]
#: Objects whose inner form templates print but do not branch on.
_OPAQUE: Final = frozenset({"arguments", "parameters"})


def signature(message: Message, needles: Sequence[str], mark: str = "") -> Signature:
    """Return the message's shape: keys in order, types, and for every text what templates look at.

    Args:
        message: one message.
        needles: literals the template looks for in texts (`CompiledTemplate.needles`).
        mark: a character that every needle holds, so that most texts need not be searched for each; "": none does.
    """
    if list(message) == _PLAIN:
        role, content = message["role"], message["content"]
        if type(role) is str and type(content) is str:
            return role, _text_shape(content, needles, mark)
    return tuple(
        (key, str(value) if key == "role" and isinstance(value, str) else _shape(key, value, needles, mark))
        for key, value in message.items()
    )


def _shape(key: str, value: JSON, needles: Sequence[str], mark: str) -> object:
    if isinstance(value, str):
        return _text_shape(value, needles, mark)
    if key in _OPAQUE:
        return type(value).__name__, bool(value)
    if isinstance(value, Mapping):
        return "{", *[(inner, _shape(inner, item, needles, mark)) for inner, item in value.items()]
    if isinstance(value, (list, tuple)):
        return "[", *[_shape("", item, needles, mark) for item in value]
    return type(value).__name__, value


def _text_shape(text: str, needles: Sequence[str], mark: str) -> int:
    if not text:
        return 0
    shape = 1 | text[0].isspace() << 1 | text[-1].isspace() << 2 | text.isspace() << 3
    if mark and mark not in text:
        return shape
    for bit, needle in enumerate(needles):
        if needle in text:
            shape |= (1 + 2 * text.startswith(needle) + 4 * text.endswith(needle)) << (4 + 3 * bit)
    return shape
