"""Read a conversation as OpenAI's chat format has it: plain dictionaries, as JSON gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar, cast

from turnloom.errors import InvalidInput
from turnloom.foreign.arrays import without_arrays
from turnloom.foreign.columns import BESIDE, MEDIA_COLUMNS, NEEDED, read_columns
from turnloom.foreign.filled_nulls import without_filled
from turnloom.foreign.json_text import columns_of, kind_of, list_in, object_in, offers_none, text_from
from turnloom.foreign.plain_values import NO_TEXT, PLAIN, Unfit, as_float32, too_deep, unfit
from turnloom.foreign.tool_calls import NO_CALLS, call_from, tool_text
from turnloom.masks.domain.conversation import JSON, Conversation, Message, Training
from turnloom.masks.domain.errors import MalformedConversation, UnsupportedContent

Refusal = TypeVar("Refusal", MalformedConversation, UnsupportedContent)

#: Keys of a message whose null is the same as their absence. The content's null is content: templates print it.
_OPTIONAL: Final = frozenset({"reasoning_content", "tool_calls", "tool_call_id", "name"})
_TEXTS: Final = ("reasoning_content", "tool_call_id", "name")
_NOTHING_SAID: Final = Training()


def conversation_from(document: object) -> Conversation:
    """Read one conversation.

    Args:
        document: a Conversation, {"messages": [...], "tools": [...], "id": "..."}, or the list of messages. A message
            may carry `trainable` (bool) and `weight` (number >= 0) beside OpenAI's keys; other keys reach the template.
            Lists may be JSON text. Keys beside the messages that other tools read are obeyed or refused; nulls that a
            table filled in are absent.

    Raises:
        MalformedConversation: naming the field, what it holds and what it must hold.
    """
    if isinstance(document, Conversation):
        return document
    if not isinstance(document, Mapping):
        document = {"messages": document}
    given_as = document
    document = without_arrays(document)
    if document is not given_as and (found := _odd_key(document)) is not None:
        raise found
    if "messages" not in document and "role" in document:
        raise MalformedConversation(
            "messages: missing: this is a message; give each conversation as a list of its messages", field="messages"
        )
    if "messages" not in document:
        raise MalformedConversation(
            f"messages: missing (keys: {', '.join(map(str, document)) or 'none'}); send the list under this key",
            field="messages",
        )
    given = _list(document["messages"], "messages")
    offered = document.get("tools")
    tools = None if offers_none(offered) else _list(offered, "tools")
    if not BESIDE.isdisjoint(document):
        given, tools = _columns_read(cast("Mapping[str, JSON]", document), given, tools)
    given, tools = without_filled(given, tools or ())
    try:
        for index, tool in enumerate(tools):
            tool_text(tool, index)
    except InvalidInput as error:
        raise _malformed(error) from error
    messages, training = [], []
    for index, item in enumerate(given):
        message, said = _message(item, index)
        messages.append(message)
        training.append(said)
    told = any(said is not _NOTHING_SAID for said in training)
    return Conversation(
        messages=messages,
        tools=tools or None,
        training=training if told else (),
        id="" if document.get("id") is None else str(document["id"]),
    )


def conversation_or_error(document: object) -> Conversation | MalformedConversation:
    """Read one conversation of many: return why it can't be read, so that it does not stop the others."""
    if isinstance(document, MalformedConversation):  # of table_row
        return document
    try:
        return conversation_from(document)
    except MalformedConversation as error:
        return error
    except RecursionError:
        return _unfit(document) or _refusal(MalformedConversation, too_deep(document))
    except (TypeError, ValueError):  # of what a library has for values: it compares with nothing
        found = _unfit(document)
        if found is None:
            raise
        return found


def table_row(value: object, messages: str = "messages") -> object:
    """Return a row of a table as conversation_or_error() takes it, or the error of a column that JSON can't hold.

    Args:
        value: as turnloom.foreign.arrow_types reads it: an object of columns, or the list of messages.
        messages: column of the messages.
    """
    row, unread = columns_of(value if isinstance(value, Mapping) else {messages: value})
    assert isinstance(row, Mapping)  # it was one
    for name in (messages, *NEEDED[1:]):
        if name in unread:
            return MalformedConversation(f"{name}: {unread[name]}", field=name)
    media = {name: True for name in MEDIA_COLUMNS if name in unread}  # there is something, whatever it is
    return {**{("messages" if name == messages else name): item for name, item in row.items()}, **media}


def unfit_error(conversation: Conversation) -> MalformedConversation | None:
    """Return what a conversation holds and JSON can't, or a key that is no text; None: nothing, or NaN alone."""
    return _unfit({"messages": conversation.messages, "tools": conversation.tools})


def too_deep_error(conversation: Conversation) -> UnsupportedContent:
    """Return which value of a conversation is nested too deeply for what walks it by recursion, such as a template."""
    return _refusal(UnsupportedContent, too_deep({"messages": conversation.messages, "tools": conversation.tools}))


def _unfit(document: object) -> MalformedConversation | None:
    row = document if isinstance(document, Mapping) else {"messages": document}
    found = unfit(row, finite=False, text_keys=True)
    return None if found is None else _refusal(MalformedConversation, found)


def _refusal(kind: type[Refusal], found: Unfit) -> Refusal:
    place = found.place.removeprefix(".")
    return kind(f"{place}: {found.what}. {PLAIN}", field=place)


def _odd_key(document: Mapping[str, object]) -> MalformedConversation | None:
    """Return that a key is no text: some ways of printing take it, others don't."""
    found = _unfit({name: document.get(name) for name in ("messages", "tools")})
    return found if found is not None and NO_TEXT in str(found) else None


def _message(item: object, index: int) -> tuple[Message, Training]:
    if not isinstance(item, Mapping):
        raise MalformedConversation(
            f"is {kind_of(item)}; send an object with role and content", message_index=index, field=""
        )
    if not isinstance(item.get("role"), str):
        raise MalformedConversation(
            f"is {kind_of(item.get('role'))}; send text such as 'user'", message_index=index, field="role"
        )
    message = {
        str(key): cast(JSON, value)
        for key, value in item.items()
        if key not in {"trainable", "weight"} and (value is not None or key not in _OPTIONAL)
    }
    if len(message) > 2:  # most have a role and a content
        try:
            for key in _TEXTS:
                if key in message:
                    text_from(message[key], key)
            if "tool_calls" in message:
                message["tool_calls"] = _calls(message["tool_calls"])
        except InvalidInput as error:
            raise _malformed(error, index) from error
    return message, _training(item.get("trainable"), item.get("weight"), index)


def _calls(value: JSON) -> JSON:
    """Return tool calls, also those of JSON text, in OpenAI's form. Raises InvalidInput."""
    found = value if isinstance(value, list | tuple) else [] if value in NO_CALLS else list_in(value)
    if found is None:
        raise InvalidInput(f"is {kind_of(value)}; give a list.", field="tool_calls")
    return [call_from(object_in(call), f"tool_calls[{at}]")[0] for at, call in enumerate(found)]


def _training(trainable: object, weight: object, index: int) -> Training:
    if trainable is None and weight is None:
        return _NOTHING_SAID
    if trainable is not None and not isinstance(trainable, bool):
        raise MalformedConversation(
            f"is {kind_of(trainable)}; send true or false", message_index=index, field="trainable"
        )
    factor = as_float32(weight) if isinstance(weight, int | float) else None
    if weight is not None and factor is None:
        raise MalformedConversation(
            f"is {weight if isinstance(weight, float) else kind_of(weight)}; send a number from 0 to 3.4e38",
            message_index=index,
            field="weight",
        )
    return Training(trainable, factor)


def _columns_read(
    document: Mapping[str, JSON], messages: Sequence[JSON], tools: Sequence[JSON] | None
) -> tuple[Sequence[JSON], Sequence[JSON] | None]:
    try:
        messages, found = read_columns(document, messages)
    except InvalidInput as error:
        raise _malformed(error) from error
    return messages, tools if found is None else _list(found, "tools")


def _malformed(error: InvalidInput, index: int | None = None) -> MalformedConversation:
    """Return what another way in says, as the engine says it: of the whole conversation, or of one message."""
    place = "" if index is not None else f"{error.field}: "
    said = f"{place}{error.message} {error.hint}".rstrip()
    return MalformedConversation(said, message_index=index, field=error.field)


def _list(value: object, field: str) -> Sequence[JSON]:
    """Return a list, given as such, as its JSON text, or as JSON texts of its objects."""
    if isinstance(value, str):
        found = list_in(value)
        if found is not None:
            return found
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise MalformedConversation(f"{field}: is {kind_of(value)}; send a list", field=field)
    return [object_in(item) for item in value] if any(isinstance(item, str) for item in value) else value
