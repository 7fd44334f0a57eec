"""Interpret or refuse other tools' columns that mark what is said or trained.

Keys inside a message belong to turnloom.masks.template.foreign_keys, so that the API treats them alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from turnloom.errors import InvalidInput
from turnloom.foreign.json_text import JSON, kind_of, list_in
from turnloom.foreign.truth import truth_of

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
#: How pandas names the columns of its index.
_INDEX: Final = "__index_level_"
#: Of unused columns, so many are named, each cut to so many characters.
MOST_UNUSED: Final = 64
LONGEST_UNUSED: Final = 128
#: Columns beside the messages that other tools read -> what to write instead.
INSTEAD: Final = dict.fromkeys(
    ("weight", "weights", "sample_weight", "loss_weight", "loss_scale"), "write weight at each message"
)
#: Whether a row is trained, in words that hold for messages -> the value that says no.
ROW_MASKS: Final = {
    **dict.fromkeys(("loss_mask", "loss", "train", "training", "trainable", "train_mask", "step_loss_mask"), False),
    **dict.fromkeys(("masked", "no_loss", "ignore_loss"), True),
}
#: Variables of the template, which TRL reads from each row.
KWARGS_COLUMN: Final = "chat_template_kwargs"
#: Every column that somebody looks at, whatever the format.
LOOKED_AT: Final = frozenset({*TOOL_COLUMNS, MASK_COLUMN, *VERDICT_COLUMNS, *MEDIA_COLUMNS, *ROW_MASKS, KWARGS_COLUMN})
#: A system prompt beside the messages.
SYSTEM_COLUMN: Final = "system"
#: What a row of messages may have beside them.
BESIDE: Final = LOOKED_AT | {SYSTEM_COLUMN}
#: Columns without which a row of messages would say something else.
NEEDED: Final = ("messages", "tools", SYSTEM_COLUMN, *TOOL_COLUMNS, MASK_COLUMN, KWARGS_COLUMN)


class UnusedColumns:
    """The columns of rows that hold something and that nobody reads."""

    def __init__(self, used: Iterable[str]) -> None:
        """Take the names that the format, and a filter, read."""
        self._used = LOOKED_AT.union(used)
        self.names: list[str] = []  #: in the order in which they were met

    def add(self, row: JSON, unread: Iterable[str] = ()) -> None:
        """Note the columns of one row; `unread` are those that hold what JSON can't."""
        if not isinstance(row, Mapping):
            return
        for name in (*(name for name in row if name not in self._used), *unread):
            if (
                name in self._used
                or name.startswith(_INDEX)
                or _is_empty(row.get(name, True))
                or len(self.names) >= MOST_UNUSED
            ):
                continue
            self._used = self._used | {name}
            self.names.append(name[:LONGEST_UNUSED])


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)


def unused_sentence(names: Sequence[str]) -> str:
    """Name columns that nobody reads, and what to write instead of those that mean something to other tools."""
    told = ", ".join(f"{name} ({INSTEAD[name]} to have it obeyed)" if name in INSTEAD else name for name in names)
    return f"Columns that nobody reads: {told}."


def _refuse_columns(row: Mapping[str, JSON], unread: Mapping[str, str], messages: Sequence[JSON]) -> None:
    """Refuse a row whose columns ask for something unsupported.

    Raises:
        InvalidInput: naming the column.
    """
    for name in (MASK_COLUMN, KWARGS_COLUMN):
        if name in unread:
            raise InvalidInput(unread[name], field=name)
    for name in VERDICT_COLUMNS:
        value = row.get(name)
        if value is False or (isinstance(value, str) and value.strip().lower() == "false"):  # 0 may be a class
            raise InvalidInput(
                "is false, which marks a reply that the model should not give; leave such rows out, or rename the"
                " column if it means something else.",
                field=name,
            )
    for name, no in ROW_MASKS.items():
        value = row.get(name)
        if value is no or (name not in ("loss", MASK_COLUMN) and truth_of(value) is no):  # a loss may be measured
            raise InvalidInput(
                "says that the row is not trained; leave such rows out, or write trainable: false at its messages.",
                field=name,
            )
    if row.get(KWARGS_COLUMN) not in (None, "", "{}", {}):
        raise InvalidInput(
            "stands beside the messages, but holds for a whole dataset; give it as the option chat_template_kwargs,"
            " and make a dataset of the rows of each value.",
            field=KWARGS_COLUMN,
        )
    for name, sign in MEDIA_COLUMNS.items():
        if (name in unread or row.get(name)) and any(sign in _content(message) for message in messages):
            raise InvalidInput(
                f"holds what {sign} in the messages stands for, but only text can be trained on; leave such rows out.",
                field=name,
            )


def read_columns(
    row: Mapping[str, JSON],
    messages: Sequence[JSON],
    columns: Mapping[str, str] = MappingProxyType({}),
    unread: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Sequence[JSON], JSON]:
    """Obey or refuse what other tools read beside the messages of one row; BESIDE names all of it.

    Args:
        row: its columns.
        messages: of the row.
        columns: part to column where the user named another one.
        unread: columns that hold what JSON can't, and what that is.

    Returns:
        The messages, with the row's system prompt and marked as `loss_mask` says, and the tools of another column
        name; None: there are none, or the row has `tools`, or the user named a column for them.

    Raises:
        InvalidInput: naming the column.
    """
    _refuse_columns(row, unread, messages)
    column = columns.get(SYSTEM_COLUMN, SYSTEM_COLUMN)
    system = row.get(column)
    messages = _with_system(_marked(messages, row), None if system == "" else system, column)
    elsewhere = "tools" not in columns and row.get("tools") in (None, "", [])
    return messages, _tools_in(row) if elsewhere else None


def _content(message: JSON) -> str:
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, list | tuple):
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _tools_in(row: Mapping[str, JSON]) -> JSON:
    """Return the row's tools from another column name, in OpenAI's form; None: there are none.

    Raises:
        InvalidInput: such a column does not hold a list of objects.
    """
    for name in TOOL_COLUMNS:
        value = row.get(name)
        if value in (None, "", []):
            continue
        found = list_in(value)
        if found is None:
            raise InvalidInput("is no list; give a list of tools.", field=name)
        for index, tool in enumerate(found):
            if not isinstance(tool, Mapping):
                raise InvalidInput(f"is {kind_of(tool)}; give an object.", field=f"{name}[{index}]")
        return [_wrapped(tool) for tool in found]
    return None


def _wrapped(tool: JSON) -> JSON:
    """Wrap a tool whose name stands beside its parameters as the function of an OpenAI tool."""
    return {"type": "function", "function": tool} if isinstance(tool, Mapping) and "function" not in tool else tool


def _marked(messages: Sequence[JSON], row: Mapping[str, JSON]) -> Sequence[JSON]:
    """Apply a `loss_mask` list beside the messages to each of them.

    Raises:
        InvalidInput: the list lacks an entry for a message, has too many, or has entries other than 0 and 1.
    """
    mask = row.get(MASK_COLUMN)
    if mask in (None, "", []):
        return messages
    entries = list_in(mask)
    if entries is None or len(entries) != len(messages) or not all(entry in (0, 1) for entry in entries):
        raise InvalidInput(
            f"does not fit; give 0 or 1 for each message ({len(messages)} in all), or leave it out and write"
            " trainable: true or false at each message.",
            field=MASK_COLUMN,
        )
    return [
        {**message, "trainable": bool(entry)}
        if isinstance(message, Mapping) and "trainable" not in message
        else message
        for message, entry in zip(messages, entries, strict=True)
    ]


def _with_system(messages: Sequence[JSON], value: JSON, column: str) -> Sequence[JSON]:
    """Prepend the system prompt of a column; None: there is none.

    Raises:
        InvalidInput: it is no text, or the messages begin with another one.
    """
    if value is None:
        return messages
    if not isinstance(value, str):
        raise InvalidInput("holds no text; give the system prompt as text.", field=column)
    first = messages[0] if messages else None
    if not isinstance(first, Mapping) or first.get("role") not in ("system", "developer"):
        return [{"role": "system", "content": value}, *messages]
    if first.get("content") in (None, "", value):
        return [{**first, "content": value}, *messages[1:]]
    raise InvalidInput("and the first message are two system prompts; leave one of them out.", field=column)
