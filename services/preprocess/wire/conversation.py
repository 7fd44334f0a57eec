"""Read conversations from the wire. Roles are not checked here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from services.preprocess.domain.limits import MAX_CONVERSATION_BYTES, MAX_CONVERSATION_ID_BYTES
from turnloom.foreign.json_text import twice
from turnloom.foreign.plain_values import TOO_DEEP
from turnloom.masks.domain.conversation import JSON, Conversation, Message, Training
from turnloom.masks.domain.errors import MalformedConversation, PreprocessError, UnsupportedContent
from turnloom.v1 import types_pb2 as pb

#: Keys of a message that have a field of their own, so extra_json may not name them.
RESERVED_KEYS: Final = frozenset(
    {"role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", "trainable", "weight"}
)
_UNTOLD: Final = Training()
#: Objects and lists inside each other; templates and their checks walk them by recursion.
_MAX_NESTING: Final = 100
_TOO_DEEP: Final = f"{TOO_DEEP}; send fewer lists and objects inside others."


def conversation(message: pb.Conversation) -> Conversation:
    """Read one conversation; fields that are absent are absent from the message.

    Raises:
        MalformedConversation, UnsupportedContent: with the path inside the conversation; never with its text.
    """
    if len(message.id.encode()) > MAX_CONVERSATION_ID_BYTES:
        raise MalformedConversation(
            f"id: has more than {MAX_CONVERSATION_ID_BYTES} bytes; give a shorter one.", field="id"
        )
    if (size := message.ByteSize()) > MAX_CONVERSATION_BYTES:
        raise MalformedConversation(
            f"has {size} bytes; at most {MAX_CONVERSATION_BYTES} are taken. Split it, or shorten long contents."
        )
    messages: list[Message] = []
    training: list[Training] = []
    told = False
    for index, item in enumerate(message.messages):
        values, said = _message(item, index)
        messages.append(values)
        training.append(said)
        told = told or said is not _UNTOLD
    tools = [_tool(text, index) for index, text in enumerate(message.tools_json)]
    return Conversation(messages=messages, tools=tools or None, training=training if told else (), id=message.id)


def _message(item: pb.Message, index: int) -> tuple[Message, Training]:
    """Read one message. ListFields yields set fields in field order, which is also the key order templates print."""
    given = item.ListFields()
    if len(given) == 2 and given[0][0] is _ROLE and given[1][0] is _TEXT:  # most messages, in half the time
        return {"role": given[0][1], "content": given[1][1]}, _UNTOLD
    values: Message = {"role": item.role}
    training = _UNTOLD
    for descriptor, value in given:
        number = descriptor.number
        if number in _PLAIN:
            values[_PLAIN[number]] = value
        elif number in _READ:
            key, read = _READ[number]
            values[key] = read(value, index)
        elif number == _TRAINABLE:
            training = Training(trainable=value)
        elif number == _WEIGHT:
            training = Training(trainable=training.trainable, weight=_weight(value, index))
        else:
            values.update(_extra(value, index))
    return values, training


def _parts(content: pb.ContentParts, index: int) -> list[JSON]:
    parts: list[JSON] = []
    for position, part in enumerate(content.parts):
        if part.type != "text":
            raise UnsupportedContent(
                f"is {part.type[:32]!r}; send parts of type 'text'.",
                message_index=index,
                field=f"parts[{position}].type",
            )
        parts.append({"type": "text", "text": part.text})
    return parts


def _null(_value: int, _index: int) -> JSON:
    return None


def _tool_calls(calls: Sequence[pb.ToolCall], index: int) -> JSON:
    return [_tool_call(call, index, position) for position, call in enumerate(calls)]


def _tool_call(call: pb.ToolCall, index: int, position: int) -> JSON:
    function: dict[str, JSON] = {"name": call.name}
    form = call.WhichOneof("arguments")
    if form == "arguments_json":
        function["arguments"] = json_object(call.arguments_json, f"tool_calls[{position}].arguments_json", index)
    elif form == "arguments_text":
        function["arguments"] = call.arguments_text
    values: dict[str, JSON] = {}
    if call.id:
        values["id"] = call.id
    if call.type:
        values["type"] = call.type
    values["function"] = function
    return values


def _weight(value: float, index: int) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise MalformedConversation(f"is {value}; give a finite number >= 0.", message_index=index, field="weight")
    return value


def _extra(text: str, index: int) -> dict[str, JSON]:
    extra = json_object(text, "extra_json", index)
    clash = RESERVED_KEYS & extra.keys()
    if clash:
        raise MalformedConversation(
            f"names {min(clash)!r}, which has a field of its own; set that field.",
            message_index=index,
            field="extra_json",
        )
    return extra


def _tool(text: str, index: int) -> JSON:
    return json_object(text, f"tools_json[{index}]", None)


def json_object(text: str, field: str, message_index: int | None) -> dict[str, JSON]:
    """Parse a JSON object inside a conversation, or say where it is wrong."""
    try:
        return parse_object(text)
    except ValueError as error:
        # Without a message the place is part of the sentence, for PreprocessError names only message fields.
        place = "" if message_index is not None else f"{field}: "
        raise MalformedConversation(f"{place}{error}", message_index=message_index, field=field) from error


def parse_object(text: str) -> dict[str, JSON]:
    """Parse the JSON text of an object, keys in their order.

    Raises:
        ValueError: with a sentence: not JSON, not an object, a key twice, NaN or Infinity, or half of a surrogate pair.
    """
    try:
        value = _DECODER.decode(text)
        if "\\ud" in text.lower():  # an escaped lone surrogate parses, but can't be encoded as text
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(
            f"is not JSON ({error.msg} at line {error.lineno} column {error.colno}); send a JSON object."
        ) from error
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair; send whole characters.") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    except _KeyTwice:
        raise
    except ValueError as error:
        raise ValueError("holds NaN, Infinity or a number that is too long; send finite numbers.") from error
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object; send one.")
    if text.count("{") + text.count("[") > _MAX_NESTING and _nested_deeper(value, _MAX_NESTING):
        raise ValueError(_TOO_DEEP)
    return value


def _nested_deeper(value: JSON, levels: int) -> bool:
    inside: list[JSON] = [value]
    while inside and levels >= 0:
        levels -= 1
        inside = [
            item
            for outer in inside
            if isinstance(outer, (dict, list))
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(inside)


def _finite(text: str) -> float:
    number = float(text)
    if math.isfinite(number):
        return number
    raise ValueError(text)


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


class _KeyTwice(ValueError):
    """An object has a key twice, and one of the values would get lost."""


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _KeyTwice(f"{twice(pairs)}; send it once.")
    return found


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_object)


def conversations(messages: Sequence[pb.Conversation]) -> list[Conversation | PreprocessError]:
    """Read many conversations, each independently: same order and length.

    One that can't be read becomes its error.
    """
    return list(read_each(messages))


def read_each(messages: Iterable[pb.Conversation]) -> Iterator[Conversation | PreprocessError]:
    """Yield one conversation after the other, so that few are held at a time."""
    for message in messages:
        try:
            yield conversation(message)
        except PreprocessError as error:
            yield error


# Numbers are looked up once: generated classes compute them at every access, at ten times the cost of reading.
#: Fields whose value is the key's value.
_PLAIN: Final[Mapping[int, str]] = {
    pb.Message.ROLE_FIELD_NUMBER: "role",
    pb.Message.TEXT_FIELD_NUMBER: "content",
    pb.Message.REASONING_CONTENT_FIELD_NUMBER: "reasoning_content",
    pb.Message.TOOL_CALL_ID_FIELD_NUMBER: "tool_call_id",
    pb.Message.NAME_FIELD_NUMBER: "name",
}
#: Fields whose value has to be read: key, reader of (value, position of the message).
_READ: Final[Mapping[int, tuple[str, Callable[..., JSON]]]] = {
    pb.Message.PARTS_FIELD_NUMBER: ("content", _parts),
    pb.Message.NULL_CONTENT_FIELD_NUMBER: ("content", _null),
    pb.Message.TOOL_CALLS_FIELD_NUMBER: ("tool_calls", _tool_calls),
}
_ROLE: Final = pb.Message.DESCRIPTOR.fields_by_name["role"]
_TEXT: Final = pb.Message.DESCRIPTOR.fields_by_name["text"]
_TRAINABLE: Final = pb.Message.TRAINABLE_FIELD_NUMBER
_WEIGHT: Final = pb.Message.WEIGHT_FIELD_NUMBER
