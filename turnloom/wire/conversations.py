"""Convert plain JSON values to the contract's Conversation; every error names its place.

A conversation is {"messages": [...], "tools": [...], "id": "..."} or just the list of messages; messages are OpenAI's.
Message keys without a field of their own go to extra_json, so templates see them. Null in an optional key counts as
absent. Keys beside "messages" that other tools read are obeyed or refused; the rest is not sent: no template sees it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from google.protobuf import struct_pb2

from turnloom.errors import InvalidInput
from turnloom.foreign.arrays import without_arrays
from turnloom.foreign.columns import BESIDE, read_columns
from turnloom.foreign.filled_nulls import without_filled
from turnloom.foreign.json_text import JSON, identifier_from, kind_of, list_from, list_in, offers_none, text_from
from turnloom.foreign.part_types import ADVICE
from turnloom.foreign.plain_values import PLAIN, as_float32, place_of_half, text_of, too_deep, unfit
from turnloom.foreign.tool_calls import NO_CALLS, call_from, only, tool_text
from turnloom.v1 import types_pb2

#: Keys of a message that are fields of their own; every other key travels in extra_json.
FIELDS = {"role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", "trainable", "weight"}
#: Under what other tools keep what `content` holds.
OTHER_CONTENT = {"text", "value", "message", "response"}
SHAPE = 'A conversation is {"messages": [{"role": "user", "content": "..."}, ...]}.'


@dataclass(frozen=True, slots=True)
class Sourced:
    """A conversation and its place in the source."""

    conversation: types_pb2.Conversation
    place: str  #: for people, for example "chats.jsonl, line 12"


def from_json(document: JSON, place: str = "") -> types_pb2.Conversation:
    """Convert parsed JSON to one conversation.

    Raises:
        InvalidInput: `place`, the field and what it must be.
    """
    try:
        return _conversation(document)
    except InvalidInput as error:
        where = ": ".join(part for part in (place, error.field, error.message) if part)
        raise InvalidInput(where, hint=error.hint, field=error.field) from error
    except RecursionError as error:
        where, what = unfit(document) or too_deep(document)
        said = ": ".join(part for part in (place, where.removeprefix("."), what) if part)
        raise InvalidInput(f"{said}.", hint=PLAIN, field=where.removeprefix(".")) from error
    except UnicodeEncodeError as error:
        said = "half of a surrogate pair (\\ud800 to \\udfff) stands alone."
        where = place_of_half(document if isinstance(document, Mapping) else {"messages": document}).removeprefix(".")
        hint = "Repair the export that cut a character in two."
        sentence = ": ".join(part for part in (place, where, said) if part)
        raise InvalidInput(sentence, hint=hint, field=where) from error


def to_json(conversation: types_pb2.Conversation) -> dict[str, JSON]:
    """Convert a conversation to the JSON that from_json() takes."""
    document: dict[str, JSON] = {"messages": [_message_json(message) for message in conversation.messages]}
    if conversation.tools_json:
        document["tools"] = [json.loads(tool) for tool in conversation.tools_json]
    if conversation.id:
        document["id"] = conversation.id
    return document


def _message_json(message: types_pb2.Message) -> JSON:
    plain: dict[str, JSON] = {"role": message.role}
    kind = message.WhichOneof("content")
    if kind == "text":
        plain["content"] = message.text
    elif kind == "parts":
        plain["content"] = [{"type": part.type, "text": part.text} for part in message.parts.parts]
    elif kind == "null_content":
        plain["content"] = None
    for key in ("reasoning_content", "tool_call_id", "name", "trainable", "weight"):
        if message.HasField(key):
            plain[key] = getattr(message, key)
    if message.tool_calls:
        plain["tool_calls"] = [_call_json(call) for call in message.tool_calls]
    if message.extra_json:
        extra = json.loads(message.extra_json)
        assert isinstance(extra, dict)  # from_json() wrote it
        plain |= extra
    return plain


def _call_json(call: types_pb2.ToolCall) -> JSON:
    function: dict[str, JSON] = {"name": call.name}
    kind = call.WhichOneof("arguments")
    if kind is not None:
        function["arguments"] = call.arguments_text if kind == "arguments_text" else json.loads(call.arguments_json)
    outer: dict[str, JSON] = {key: getattr(call, key) for key in ("id", "type") if getattr(call, key)}
    return {**outer, "function": function}


def _conversation(document: JSON) -> types_pb2.Conversation:
    if isinstance(document, list | tuple) or hasattr(document, "tolist"):
        document = {"messages": document}
    if not isinstance(document, Mapping):
        raise InvalidInput("can't be used; give an object, or a list of messages.", hint=SHAPE)
    document = cast("Mapping[str, JSON]", without_arrays(document))
    messages = document.get("messages")
    if messages is None:
        keys = ", ".join(map(str, document)) or "none"
        raise InvalidInput(f"there is no key messages (keys: {keys}).", hint=SHAPE)
    said, tools = list_from(messages, "messages"), document.get("tools")
    if not BESIDE.isdisjoint(document):
        said, found = read_columns(document, said)
        tools = tools if found is None else found
    kept, offered = without_filled(said, _tools(tools))
    return types_pb2.Conversation(
        id=identifier_from(document.get("id")),
        messages=[_message(message, f"messages[{index}]") for index, message in enumerate(kept)],
        tools_json=[tool_text(tool, index) for index, tool in enumerate(offered)],
    )


def _tools(value: JSON) -> Sequence[JSON]:
    """Return the tools of a list, of its JSON text, or of JSON texts, as some data sets store them."""
    if offers_none(value):
        return []
    if isinstance(value, str) and list_in(value) is None:
        raise InvalidInput("is text, but not JSON text of a list.", field="tools")
    return list_from(value, "tools")


def _message(value: JSON, path: str) -> types_pb2.Message:
    if not isinstance(value, Mapping):
        raise InvalidInput("can't be used; give an object with role and content.", field=path, hint=SHAPE)
    if "role" not in value:
        hint = "ShareGPT data (from, value) needs its keys renamed to role and content." if "from" in value else SHAPE
        raise InvalidInput("has no role.", field=path, hint=hint)
    message = types_pb2.Message(role=text_from(value["role"], f"{path}.role"))
    if "content" in value:
        _fill_content(message, value["content"], f"{path}.content")
    for key in ("reasoning_content", "tool_call_id", "name"):
        if value.get(key) is not None:
            setattr(message, key, text_from(value[key], f"{path}.{key}"))
    if value.get("tool_calls") not in (None, *NO_CALLS):
        calls = list_from(value["tool_calls"], f"{path}.tool_calls")
        message.tool_calls.extend(_tool_call(call, f"{path}.tool_calls[{i}]") for i, call in enumerate(calls))
    _fill_training(message, value, path)
    extra = {key: item for key, item in value.items() if key not in FIELDS}
    if "content" not in value and not message.tool_calls and (said := extra.keys() & OTHER_CONTENT):
        raise InvalidInput(f"has no content, but the key {min(said)}.", field=path, hint="Rename it to content.")
    if extra:
        message.extra_json = text_of(extra, path)
    return message


def _fill_content(message: types_pb2.Message, content: JSON, path: str) -> None:
    if content is None:
        message.null_content = struct_pb2.NULL_VALUE
    elif isinstance(content, str):
        message.text = content
    elif isinstance(content, list | tuple):
        message.parts.SetInParent()  # an empty list is content too
        message.parts.parts.extend(_part(part, f"{path}[{index}]") for index, part in enumerate(content))
    else:
        raise InvalidInput(f"is {kind_of(content)}; give text, a list of parts or null.", field=path)


def _part(value: JSON, path: str) -> types_pb2.ContentPart:
    if isinstance(value, str):
        raise InvalidInput('is text; give {"type": "text", "text": "..."}.', field=path)
    if not isinstance(value, Mapping):
        raise InvalidInput(f"is {kind_of(value)}; give an object with type and text.", field=path)
    kind = text_from(value.get("type"), f"{path}.type")
    if kind != "text":
        if kind in ADVICE:
            raise InvalidInput(f"has the type {kind}; {ADVICE[kind]}.", field=path)
        raise InvalidInput(
            f"has the type {kind}; give text, nothing else can be trained on.", field=path, hint="Remove the part."
        )
    only(value, {"type", "text"}, path)
    return types_pb2.ContentPart(type=kind, text=text_from(value.get("text"), f"{path}.text"))


def _tool_call(value: JSON, path: str) -> types_pb2.ToolCall:
    said, arguments_json = call_from(value, path)
    function = cast("Mapping[str, str]", said["function"])
    call = types_pb2.ToolCall(name=function["name"])
    for key in ("id", "type"):
        if key in said:
            setattr(call, key, said[key])
    if arguments_json:
        call.arguments_json = arguments_json
    elif "arguments" in function:
        call.arguments_text = function["arguments"]
    return call


def _fill_training(message: types_pb2.Message, value: Mapping[str, JSON], path: str) -> None:
    """Set the message's training fields."""
    trainable, weight = value.get("trainable"), value.get("weight")
    if trainable is not None:
        if not isinstance(trainable, bool):
            raise InvalidInput(f"is {kind_of(trainable)}; give true or false.", field=f"{path}.trainable")
        message.trainable = trainable
    if weight is not None:
        if not isinstance(weight, int | float):  # true and false, as some tools write it, are 1 and 0
            raise InvalidInput(f"is {kind_of(weight)}; give a number.", field=f"{path}.weight")
        factor = as_float32(weight)
        if factor is None:
            raise InvalidInput(
                f"is {weight if isinstance(weight, float) else kind_of(weight)}; give a number from 0 to 3.4e38.",
                field=f"{path}.weight",
            )
        message.weight = factor
