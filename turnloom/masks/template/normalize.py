"""Normalize messages to the form in which inference servers hand them to a chat template.

Servers give arguments of tool calls as objects, read from the JSON text that OpenAI's API has. They give "" for content
that is null, absent or an empty list, and leave an empty list of calls out. Where the template takes only text, they
join the texts of content parts to one. A model must be trained on what it will see, so the same is done here, unless
normalize_messages is off.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from typing import Final, TypeGuard

from turnloom.masks.domain.conversation import JSON, Message
from turnloom.masks.domain.errors import UnsupportedContent

#: OpenAI's first form of a call, beside content.
LEGACY_CALL: Final = "function_call"
#: Keys of a tool's schema, at OpenAI and at Anthropic.
_SCHEMAS: Final = ("parameters", "input_schema")
#: Types of a tool that is a function, at OpenAI and at Anthropic; others are tools of the server.
_FUNCTIONS: Final = (None, "function", "custom")
#: Keys of a call, or of its function, that hold no arguments.
_OF_CALLS: Final = ("id", "type", "name", "index")
_PLAIN: Final = ("role", "content")
_NOTHING: Final[tuple[JSON, ...]] = (None, [])  #: contents of a message that says nothing
_NO_CALL: Final[tuple[JSON, ...]] = (None, "", "null", {})  #: a function_call of a message that calls nothing
_TEXT_PART: Final = {"type", "text"}  #: all keys of a part that holds text and nothing else
#: What stands between the texts of parts, as in vLLM and llama.cpp; SGLang writes a space.
_BETWEEN_PARTS: Final = "\n"


def normalized(
    messages: Sequence[Message], known: Collection[str] = (), *, only_text: bool = False
) -> Sequence[Message]:
    """Return the messages as an inference server would send them; those that need nothing are the same objects.

    Args:
        messages: as sent.
        known: names that the template reads; a key of an older form that it knows is left to it.
        only_text: the template takes contents as one text (`CompiledTemplate.takes_only_text`), so that parts become
            one; where False, they are left to it.

    Raises:
        UnsupportedContent: arguments are not a JSON object, or two forms of calls stand beside each other.
    """
    return [
        message if _needs_nothing(message, only_text) else _normalized(message, index, known, only_text)
        for index, message in enumerate(messages)
    ]


def normalized_tools(tools: Sequence[JSON]) -> Sequence[JSON]:
    """Return tools in OpenAI's form, in which servers hand them to templates; the same object if they were.

    A tool that has its name beside its parameters, as in OpenAI's Responses API, becomes the function of one. A
    function and parameters that are JSON text become the object that the text says.
    """
    return tools if all(map(_is_openai, tools)) else [tool if _is_openai(tool) else _tool(tool) for tool in tools]


def _is_openai(tool: JSON) -> bool:
    if not isinstance(tool, Mapping):
        return True  # nothing that could be made so
    if "function" in tool:
        function = tool["function"]
        return not isinstance(function.get("parameters") if isinstance(function, Mapping) else function, str)
    if not isinstance(tool.get("name"), str):
        return True
    return tool.get("type", "function") not in _FUNCTIONS or tool.keys().isdisjoint(_SCHEMAS)


def _tool(tool: JSON) -> JSON:
    assert isinstance(tool, Mapping)  # asked by _is_openai
    if "function" in tool:
        return {**tool, "function": _with_schema(_said(tool["function"]))}
    named = {"parameters" if key in _SCHEMAS else key: value for key, value in tool.items() if key != "type"}
    return {"type": "function", "function": _with_schema(named)}


def _with_schema(function: JSON) -> JSON:
    if not isinstance(function, Mapping) or not isinstance(function.get("parameters"), str):
        return function
    return {**function, "parameters": _said(function["parameters"])}


def _said(value: JSON) -> JSON:
    """Return the object that a text says as JSON; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, Mapping) else value


def with_one_text(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages with one text in place of text parts, for a template that takes only text.

    Parts that hold anything else stay, and are refused where messages are checked. Messages without are the same
    objects.
    """
    return [
        {**message, "content": _one_text(content)} if _has_text_parts(content := message.get("content")) else message
        for message in messages
    ]


def _has_text_parts(content: JSON) -> TypeGuard[Sequence[Mapping[str, str]]]:
    return (
        isinstance(content, (list, tuple))
        and len(content) > 0
        and all(isinstance(part, Mapping) and part.keys() == _TEXT_PART for part in content)
        and all(part["type"] == "text" and isinstance(part["text"], str) for part in content)
    )


def _one_text(parts: Sequence[Mapping[str, str]]) -> str:
    return _BETWEEN_PARTS.join(part["text"] for part in parts if part["text"])  # vLLM leaves empty ones out


def _needs_nothing(message: Message, only_text: bool) -> bool:
    content = message.get("content")
    if type(content) is not str and (content in _NOTHING or (only_text and _has_text_parts(content))):
        return False
    return "tool_calls" not in message and LEGACY_CALL not in message


def _normalized(message: Message, index: int, known: Collection[str], only_text: bool) -> Message:
    values = dict(message)
    legacy = values.get(LEGACY_CALL)
    if LEGACY_CALL in values and LEGACY_CALL not in known:
        del values[LEGACY_CALL]
        legacy = _said(legacy)
        if legacy not in _NO_CALL:
            values = _with_call(values, legacy, index)
    content = values.get("content")
    if only_text and _has_text_parts(content):
        values["content"] = _one_text(content)
    elif content in _NOTHING:
        others = {key: value for key, value in values.items() if key not in _PLAIN}
        values = {**({"role": values["role"]} if "role" in values else {}), "content": "", **others}
    calls = values.get("tool_calls")
    if isinstance(calls, (list, tuple)) and calls:
        values["tool_calls"] = [_call(call, index, at) for at, call in enumerate(calls)]
    if "tool_calls" in values and (calls is None or calls == []):
        del values["tool_calls"]
    return values


def _with_call(values: Message, legacy: JSON, index: int) -> Message:
    if values.get("tool_calls"):
        raise UnsupportedContent(
            "and tool_calls stand beside each other; keep tool_calls", message_index=index, field=LEGACY_CALL
        )
    if not isinstance(legacy, Mapping) or not isinstance(legacy.get("name"), str):
        raise UnsupportedContent(
            "can't be used; send an object with name and arguments, or tool_calls",
            message_index=index,
            field=LEGACY_CALL,
        )
    return {**values, "tool_calls": [{"type": "function", "function": dict(legacy)}]}


def _call(call: JSON, index: int, at: int) -> JSON:
    if not isinstance(call, Mapping):
        return call
    inner = call.get("function")
    if isinstance(inner, Mapping):
        return {**call, "function": _with_arguments(inner, index, f"tool_calls[{at}].function")}
    if "name" not in call:
        return call
    outer = {key: call[key] for key in ("id", "type") if call.get(key) is not None}
    function = {key: value for key, value in call.items() if key not in outer}
    return {"type": "function", **outer, "function": _with_arguments(function, index, f"tool_calls[{at}]")}


def _with_arguments(function: Mapping[str, JSON], index: int, place: str) -> Mapping[str, JSON]:
    arguments = function.get("arguments")
    for key, value in function.items() if arguments is None else ():
        if value is not None and key not in _OF_CALLS:
            raise UnsupportedContent(
                "is no key of a call, and arguments is missing; rename it if it holds them, or remove it",
                message_index=index,
                field=f"{place}.{key}",
            )
    return {**function, "arguments": _arguments(arguments, index, f"{place}.arguments")}


def _arguments(value: JSON, index: int, place: str) -> JSON:
    if isinstance(value, Mapping):
        return value
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    if not isinstance(value, str):
        raise UnsupportedContent(f"is {_kind(value)}; send a JSON object", message_index=index, field=place)
    try:
        found = json.loads(value, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise UnsupportedContent(
            f"is text that is no JSON ({_why(error)}); send a JSON object, or set normalize_messages to false to have"
            " the text printed as it is",
            message_index=index,
            field=place,
        ) from error
    if not isinstance(found, Mapping):
        raise UnsupportedContent(
            f"is JSON text of {_kind(found)}; send a JSON object", message_index=index, field=place
        )
    return found


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it holds a number of too many digits" if "int_max_str_digits" in str(error) else str(error)


def _refuse(name: str) -> float:
    raise ValueError(f"it holds {name}")


def _finite(text: str) -> float:
    number = float(text)
    if isfinite(number):
        return number
    raise ValueError("it holds a number that is too large")


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("one key stands twice")
    return found


def _kind(value: JSON) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return "null" if value is None else "text" if isinstance(value, str) else "a list"
