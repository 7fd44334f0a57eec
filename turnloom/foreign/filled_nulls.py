"""Tell nulls that a table filled in from those that were written.

Tables give every struct all keys of its column, and JSON lines written from one keep those nulls. Two signs reveal
them. One is a null property in a tool's schema. The other is messages that share all keys while some hold null under
one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from turnloom.foreign.json_text import JSON

#: Null here says something: there is no text.
_CONTENT: Final = "content"


def without_filled(messages: Sequence[JSON], tools: Sequence[JSON]) -> tuple[Sequence[JSON], Sequence[JSON]]:
    """Remove nulls that a table filled in; without a sign of a table, messages and tools stay unchanged.

    Null under any key of a message itself except its content always counts as absent.
    """
    if _from_table(messages, tools):
        return [_deep(message, is_message=True) for message in messages], [_deep(tool) for tool in tools]
    return [_shallow(message) for message in messages], tools


def _shallow(message: JSON) -> JSON:
    if not isinstance(message, dict) or None not in message.values():
        return message
    return {key: item for key, item in message.items() if item is not None or key == _CONTENT}


def _deep(value: JSON, *, is_message: bool = False) -> JSON:
    if isinstance(value, dict):
        kept = (is_message and _CONTENT,)
        return {key: _deep(item) for key, item in value.items() if item is not None or key in kept}
    return [_deep(item) for item in value] if isinstance(value, list) else value


def _from_table(messages: Sequence[JSON], tools: Sequence[JSON]) -> bool:
    if any(_null_property(tool) for tool in tools):
        return True
    first = messages[0] if messages else None
    if not isinstance(first, dict) or len(messages) < 2:
        return False
    keys = list(first)
    if len(keys) < 3 or not all(isinstance(message, dict) and list(message) == keys for message in messages):
        return False
    return any(
        item is None and key != _CONTENT
        for message in messages
        if isinstance(message, dict)
        for key, item in message.items()
    )


def _null_property(value: JSON) -> bool:
    """Return whether a schema has a null property, which no valid schema can have."""
    if isinstance(value, list):
        return any(map(_null_property, value))
    if not isinstance(value, Mapping):
        return False
    properties = value.get("properties")
    if isinstance(properties, Mapping) and None in properties.values():
        return True
    return any(map(_null_property, value.values()))
