"""Columns of other tools that say what is said or trained, read as what they mean or refused. Knows no message's keys.

Keys inside a message are turnloom.masks.template.foreign_keys' business, so that the API treats them alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from turnloom.conversations import JSON
from turnloom.errors import InvalidInput
from turnloom.foreign.json_text import list_in

#: Names under which other tools keep what `tools` holds.
TOOL_COLUMNS: Final = ("functions", "tool_defs", "available_tools")
#: A list of 0 and 1 beside the messages, one for each.
MASK_COLUMN: Final = "loss_mask"
#: Where false marks a reply that the model should not give (KTO's form).
VERDICT_COLUMNS: Final = ("label", "kto_tag")
#: Columns of media -> how a text refers to one of them.
MEDIA_COLUMNS: Final = {
    **dict.fromkeys(("images", "image"), "<image>"),
    **dict.fromkeys(("videos", "video"), "<video>"),
    **dict.fromkeys(("audios", "audio"), "<audio>"),
}


def refuse_columns(row: Mapping[str, JSON], unread: Mapping[str, str], messages: Sequence[JSON]) -> None:
    """Refuse a row that says what can't be obeyed.

    Raises:
        InvalidInput: naming the column.
    """
    for name in VERDICT_COLUMNS:
        if row.get(name) is False:
            raise InvalidInput(
                "is false, which marks a reply that the model should not give; leave such rows out, or rename the"
                " column if it means something else.",
                field=name,
            )
    for name, sign in MEDIA_COLUMNS.items():
        if (name in unread or row.get(name)) and any(sign in _content(message) for message in messages):
            raise InvalidInput(
                f"holds what {sign} in the messages stands for, but only text can be trained on; leave such rows out.",
                field=name,
            )


def _content(message: JSON) -> str:
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, str) else ""


def tools_in(row: Mapping[str, JSON]) -> JSON:
    """Give the tools that a row has under another name, in OpenAI's form; None: there are none.

    Raises:
        InvalidInput: such a column holds no list.
    """
    for name in TOOL_COLUMNS:
        value = row.get(name)
        if value in (None, "", []):
            continue
        found = list_in(value)
        if found is None:
            raise InvalidInput("must be a list of tools.", field=name)
        return [_wrapped(tool) for tool in found]
    return None


def _wrapped(tool: JSON) -> JSON:
    """A tool; one that has its name beside its parameters is the function of an OpenAI tool."""
    return {"type": "function", "function": tool} if isinstance(tool, dict) and "function" not in tool else tool


def marked(messages: Sequence[JSON], row: Mapping[str, JSON]) -> Sequence[JSON]:
    """Give the messages with what a list `loss_mask` beside them says of each.

    Raises:
        InvalidInput: it has not one entry per message, or other entries than 0 and 1.
    """
    mask = row.get(MASK_COLUMN)
    if mask in (None, "", []):
        return messages
    entries = list_in(mask)
    if entries is None or len(entries) != len(messages) or not all(entry in (0, 1) for entry in entries):
        raise InvalidInput(
            f"must be a list of 0 and 1, one for each of the {len(messages)} messages; leave it out and write"
            " trainable: true or false at each message.",
            field=MASK_COLUMN,
        )
    return [
        {**message, "trainable": bool(entry)} if isinstance(message, dict) and "trainable" not in message else message
        for message, entry in zip(messages, entries, strict=True)
    ]
