"""Which message a template's own error is about, found by rendering fewer of them and each field in another form.

Templates raise in their own words or in Python's, without a place. The shortest beginning of the conversation that
raises the same error ends with the message that is at fault. The field is the one whose other form the template takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from turnloom.masks.domain.conversation import JSON, Message
from turnloom.masks.domain.errors import TemplateRefused
from turnloom.masks.template.compiled import CompiledTemplate
from turnloom.masks.template.render import Settings, render_plain
from turnloom.masks.turns.advice import advised

#: What Jinja says of a variable that nobody gave; of a key that a message lacks it says something else.
_UNDEFINED: Final = re.compile(r"'(\w+)' is undefined$")


class RefusedRequest(NamedTuple):
    """A conversation that its template refuses."""

    messages: Sequence[Message]
    tools: Sequence[JSON] | None
    template: CompiledTemplate
    settings: Settings


class _Other(NamedTuple):
    """A message in another form."""

    field: str
    hint: str  #: what to send instead
    message: Message


def placed(refusal: TemplateRefused, asked: RefusedRequest) -> TemplateRefused:
    """Return the refusal with the message and field that it is about; unchanged where that can't be determined.

    Args:
        refusal: of the whole conversation.
        asked: what was to be rendered.
    """
    messages = asked.messages
    if refusal.message_index is not None or _refused(asked, messages) != refusal.message:
        return refusal
    undefined = _UNDEFINED.search(refusal.message)
    if undefined is not None and undefined[1] in asked.template.given:  # no message is at fault
        return TemplateRefused(advised(refusal.message, f"give {undefined[1]} in chat_template_kwargs"))
    low, high = 0, len(messages)  # the first `low` messages pass or raise otherwise, the first `high` raise this
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _refused(asked, messages[:middle]) == refusal.message else (middle, high)
    index = high - 1
    before, message = messages[:index], messages[index]
    for other in _others(message):
        if not _refused(asked, [*before, other.message]):
            return TemplateRefused(advised(refusal.message, other.hint), message_index=index, field=other.field)
    return TemplateRefused(refusal.message, message_index=index)


def _refused(asked: RefusedRequest, messages: Sequence[Message]) -> str:
    """Return the template's error message; empty where it accepts these messages."""
    try:
        render_plain(messages, asked.tools, asked.template, asked.settings)
    except TemplateRefused as refusal:
        return refusal.message
    return ""


def _others(message: Message) -> Iterator[_Other]:
    content, calls = message.get("content"), message.get("tool_calls")
    if content is None:
        yield _Other("content", 'it is null or absent; send ""', {**message, "content": ""})
    if isinstance(content, str):
        parts: JSON = [{"type": "text", "text": content}]
        yield _Other("content", "send it as a list of parts of type text", {**message, "content": parts})
    elif isinstance(content, (list, tuple)):
        texts = [str(part.get("text", "")) for part in content if isinstance(part, Mapping)]
        yield _Other("content", "send it as one text", {**message, "content": "\n".join(texts)})
    if isinstance(calls, (list, tuple)) and calls:
        yield from _other_calls(message, calls)
        if content:
            yield _Other("content", "send text and tool calls as two messages, or no text", {**message, "content": ""})
    for key in message:
        if key not in ("role", "content"):
            rest = {name: value for name, value in message.items() if name != key}
            yield _Other(key, "leave it out, or send it in the form that the template takes", rest)


def _other_calls(message: Message, calls: Sequence[JSON]) -> Iterator[_Other]:
    if len(calls) > 1:
        yield _Other("tool_calls", "send one call in a message", {**message, "tool_calls": calls[:1]})
    texts, objects = _with_arguments(calls, as_text=True), _with_arguments(calls, as_text=False)
    place = "tool_calls[0].function.arguments"
    yield _Other(
        place,
        "this template takes JSON text: set normalize_messages to false and send the arguments as text",
        {**message, "tool_calls": texts},
    )
    yield _Other(place, "send an object instead of its JSON text", {**message, "tool_calls": objects})
    for id_ in ("call00001", "functions.NAME:0"):
        named: list[JSON] = [{**call, "id": id_} if isinstance(call, Mapping) else call for call in calls]
        yield _Other(
            "tool_calls[0].id",
            f"send an id of the form {id_}, or set make_tool_call_ids",
            {**message, "tool_calls": named},
        )


def _with_arguments(calls: Sequence[JSON], *, as_text: bool) -> list[JSON]:
    """Return the calls with all arguments as JSON text, or as objects."""
    return [_with_argument(call, as_text) for call in calls]


def _with_argument(call: JSON, as_text: bool) -> JSON:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return call
    arguments = function.get("arguments")
    other: JSON
    if as_text:
        other = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    else:
        other = arguments if isinstance(arguments, Mapping) else _object(arguments)
    return {**call, "function": {**function, "arguments": other}}


def _object(arguments: JSON) -> JSON:
    try:
        found = json.loads(arguments) if isinstance(arguments, str) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
