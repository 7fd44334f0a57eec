"""Messages and tools with an origin on every string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from turnloom.masks.domain.conversation import JSON, STRUCTURE, Message
from turnloom.masks.domain.rendered_text import TOOLS, Origin
from turnloom.masks.template.provenance.runs import Runs
from turnloom.masks.template.provenance.strings import traced

#: Left as exact strs: templates print them into role headers. Roles are plain words (checked before rendering).
_UNTRACED: Final = frozenset({"role"})


def traced_messages(messages: Sequence[Message]) -> list[dict[str, JSON]]:
    """Copy messages so that their strings carry Origin(message index, first key)."""
    return [traced_message(message, index) for index, message in enumerate(messages)]


def traced_message(message: Message, index: int) -> dict[str, JSON]:
    """Copy a message so that its strings carry Origin(index, first key)."""
    return {
        key: value if key in _UNTRACED or value is None else _traced(value, Origin(index, key))
        for key, value in message.items()
    }


def traced_tools(tools: Sequence[JSON] | None) -> list[JSON] | None:
    """Copy tools so that their strings carry the origin TOOLS."""
    return None if tools is None else [_traced(tool, _TOOLS_ORIGIN) for tool in tools]


_TOOLS_ORIGIN: Final = Origin(TOOLS, "tools")


def _traced(value: JSON, origin: Origin) -> JSON:
    if isinstance(value, str):
        if not value:
            return value
        runs: Runs = ((len(value), origin),)
        return traced(value, runs)
    if isinstance(value, Mapping):
        return {
            key if key in STRUCTURE or not key else traced(key, ((len(key), origin),)): _traced(item, origin)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_traced(item, origin) for item in value]
    return value
