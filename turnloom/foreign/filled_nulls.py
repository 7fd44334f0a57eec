"""Tell nulls that a table filled in from those that were written.

Tables give every struct all keys of its column, and JSON lines written from one keep those nulls. Two signs reveal
them. One is a null in a tool's schema where no schema can have one, such as a property or an `enum`. The other is
messages that share all keys while some hold null under one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import is_
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from turnloom.foreign.json_text import JSON

#: Null here says something: there is no text.
_CONTENT: Final = "content"
#: Keys of a tool that hold a schema.
_SCHEMAS: Final = frozenset({"parameters", "input_schema"})
#: Keys of a schema that hold schemas by name.
_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions"})
#: Keys of a schema that hold values of any kind, null among them.
_VALUES: Final = frozenset({"default", "const", "enum", "example", "examples"})
#: Keys of a schema that are never null.
_NEVER_NULL: Final = _NAMED | frozenset(
    {"type", "enum", "items", "required", "description", "title", "format", "pattern", "additionalProperties"}
    | {"anyOf", "oneOf", "allOf", "not", "$ref", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"}
)


def without_filled(messages: Sequence[JSON], tools: Sequence[JSON]) -> tuple[Sequence[JSON], Sequence[JSON]]:
    """Remove nulls that a table filled in; without a sign of a table, messages and tools stay unchanged.

    Null always counts as absent under any key of a message itself except its content, under one of a part of content,
    and under one of a tool or of its function.
    """
    if _from_table(messages, tools):
        return [_deep(message, is_message=True) for message in messages], [_deep(tool) for tool in tools]
    return [_shallow(message) for message in messages], [_shallow_tool(tool) for tool in tools]


def _shallow(message: JSON) -> JSON:
    if not isinstance(message, Mapping):
        return message
    content = message.get(_CONTENT)
    if isinstance(content, list | tuple) and any(isinstance(part, Mapping) and _has_null(part) for part in content):
        message = {**message, _CONTENT: [_without_nulls(part) for part in content]}
    if not _has_null(message):
        return message
    return {key: item for key, item in message.items() if item is not None or key == _CONTENT}


def _shallow_tool(tool: JSON) -> JSON:
    if not isinstance(tool, Mapping):
        return tool
    function = tool.get("function")
    if isinstance(function, Mapping) and _has_null(function):
        tool = {**tool, "function": _without_nulls(function)}
    return _without_nulls(tool)


def _has_null(value: Mapping[str, JSON]) -> bool:
    """Whether a value is null; by identity, as what a library has for values may compare with nothing."""
    return any(map(is_, value.values(), repeat(None)))


def _without_nulls(value: JSON) -> JSON:
    if not isinstance(value, Mapping) or not _has_null(value):
        return value
    return {key: item for key, item in value.items() if item is not None}


def _deep(value: JSON, *, is_message: bool = False) -> JSON:
    if isinstance(value, Mapping):
        kept = (is_message and _CONTENT,)
        return {key: _deep(item) for key, item in value.items() if item is not None or key in kept}
    return [_deep(item) for item in value] if isinstance(value, list | tuple) else value


def _from_table(messages: Sequence[JSON], tools: Sequence[JSON]) -> bool:
    if any(_has_impossible(tool, is_schema=False) for tool in tools):
        return True
    first = messages[0] if messages else None
    if not isinstance(first, Mapping) or len(messages) < 2:
        return False
    keys = list(first)
    if len(keys) < 3 or not all(isinstance(message, Mapping) and list(message) == keys for message in messages):
        return False
    return any(
        item is None and key != _CONTENT
        for message in messages
        if isinstance(message, Mapping)
        for key, item in message.items()
    )


def _has_impossible(value: JSON, *, is_schema: bool) -> bool:
    """Return whether a tool has a null in its schema that no valid schema can have."""
    if isinstance(value, list | tuple):
        return any(_has_impossible(item, is_schema=is_schema) for item in value)
    if not isinstance(value, Mapping):
        return False
    return any(
        (is_schema and key in _NEVER_NULL) if item is None else _is_filled(key, item, is_schema=is_schema)
        for key, item in value.items()
    )


def _is_filled(key: str, item: JSON, *, is_schema: bool) -> bool:
    if key in _NAMED and isinstance(item, Mapping):
        return _has_null(item) or any(_has_impossible(one, is_schema=True) for one in item.values())
    return not (is_schema and key in _VALUES) and _has_impossible(item, is_schema=is_schema or key in _SCHEMAS)
