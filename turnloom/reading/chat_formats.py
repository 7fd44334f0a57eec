"""Convert a row of one of four formats into a document with messages.

messages           {"messages": [{"role", "content"}, ...], "tools": [...], "system": "..."}    OpenAI's
sharegpt           {"conversations": [{"from", "value"}, ...], "system": "..."}    ShareGPT's
prompt_completion  {"prompt": text or messages, "completion": text or messages}
alpaca             {"instruction", "input", "output", "system", "history": [[question, answer], ...]}

The client uses this for local files, the preprocess worker for all else, so both make the same dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from turnloom.errors import InvalidInput
from turnloom.foreign.columns import TOOL_COLUMNS, read_columns
from turnloom.foreign.json_text import JSON, kind_of, list_from, list_in, object_in, text_from
from turnloom.foreign.tool_calls import with_known_keys

#: Who speaks in ShareGPT's data, as chat templates call it.
SPEAKERS: Final = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "ai", "bot", "chatbot", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}
#: Speakers of ShareGPT's data whose turn is a call, as JSON text of its name and arguments, or a list of such.
CALLERS: Final = ("function_call", "tool_call")
#: Parts of any format that are taken along where a row has them.
COMMON: Final = ("tools", "id")

#: Columns of pairs of preferences.
_PAIR: Final = frozenset({"chosen", "rejected"})

Parts = Mapping[str, JSON]  # part of the format to the row's value


@dataclass(frozen=True, slots=True)
class Shape:
    """One format: its parts, and how they become messages."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    messages: Callable[[Parts], Sequence[JSON]]

    @property
    def parts(self) -> tuple[str, ...]:
        """All parts that a column can hold."""
        return (*self.required, *self.optional, *COMMON)


@dataclass(frozen=True, slots=True)
class Format:
    """A shape and the columns that hold its parts."""

    name: str
    columns: Mapping[str, str] = field(default_factory=dict)  #: part to column, where they differ

    def __post_init__(self) -> None:
        """Refuse what no row could satisfy.

        Raises:
            InvalidInput: an unknown format, or a part that it does not have.
        """
        if self.name not in SHAPES:
            raise InvalidInput(
                f"There is no format {self.name!r}.", hint=f"Choose from {', '.join(SHAPES)}.", field="format"
            )
        unknown = self.columns.keys() - set(SHAPES[self.name].parts)
        if unknown:
            raise InvalidInput(
                f"Format {self.name} has no part {min(unknown)!r}.",
                hint=f"It has: {', '.join(SHAPES[self.name].parts)}.",
                field="column_mapping",
            )

    def column(self, part: str) -> str:
        """Return the column that holds a part."""
        return self.columns.get(part, part)

    @property
    def used(self) -> list[str]:
        """All columns that are read."""
        return [*(self.column(part) for part in SHAPES[self.name].parts), *TOOL_COLUMNS]

    def document(self, row: JSON, unread: Mapping[str, str] | None = None) -> dict[str, JSON]:
        """Convert a row to {"messages": [...], "tools": ..., "id": ...}; from_json() validates the messages.

        Args:
            row: its columns.
            unread: columns that hold what JSON can't, and what that is.

        Raises:
            InvalidInput: a column is missing, holds the wrong kind of value, or asks for something unsupported.
        """
        if isinstance(row, list) and row and isinstance(row[0], dict) and _shown_by(row[0]):
            raise InvalidInput("is a list of rows; write each in a line of its own, or name the file .json.")
        if isinstance(row, list) and self.name == "messages":
            row = {self.column("messages"): row}
        if not isinstance(row, dict):
            raise InvalidInput(f"a row is {kind_of(row)}; give an object with columns.")
        for name in self.used if unread else ():
            if unread and name in unread and name != self.column("id"):
                raise InvalidInput(unread[name], field=name)
        for part in SHAPES[self.name].required:
            if row.get(self.column(part)) is None:
                keys = ", ".join(map(str, row)) or "none"
                missing = f"there is no column {self.column(part)} (columns: {keys})."
                said = "is null in this row; leave such rows out." if self.column(part) in row else missing
                raise InvalidInput(said, field=self.column(part))
        required = SHAPES[self.name].required
        parts = {part: _said(row.get(self.column(part)), part in required) for part in SHAPES[self.name].parts}
        try:
            messages = SHAPES[self.name].messages(parts)
        except InvalidInput as error:
            part, _, rest = error.field.partition("[")
            raise InvalidInput(
                error.message, hint=error.hint, field=self.column(part) + ("[" + rest if rest else "")
            ) from error
        messages, tools = read_columns(row, messages, self.columns, unread or {})
        parts["tools"] = parts["tools"] if tools is None else tools
        return {"messages": messages, **{part: parts[part] for part in COMMON if parts[part] is not None}}


def detect(
    rows: Iterable[JSON], columns: Mapping[str, str] | None = None, unread: Mapping[str, str] | None = None
) -> Format:
    """Detect the format from the first of these rows that shows one.

    Args:
        rows: a few of the first; those that are not objects are ignored.
        columns: part to column as the user named them; only formats that have these parts are tried.
        unread: columns that hold what JSON can't, and what that is.

    Raises:
        InvalidInput: no row shows any; the message lists the columns and what each holds.
    """
    named = dict(columns or {})
    seen: Mapping[str, str] = {}
    for row in rows:
        if isinstance(row, list):
            return Format("messages", named)
        if not isinstance(row, dict):
            continue
        seen = seen or {str(key): _held(value) for key, value in row.items()}
        for name, shape in SHAPES.items():
            if named.keys() <= set(shape.parts):
                found = Format(name, _guessed(name, row, named))
                if all(row.get(found.column(part)) is not None for part in shape.required) and _fits(found, row):
                    return found
    seen = {**seen, **{name: what.removeprefix("holds ").rstrip(".") for name, what in (unread or {}).items()}}
    told = ", ".join(f"{name} ({held})" for name, held in seen.items())
    _check_named(named, seen)
    if not named and seen.keys() >= _PAIR:
        raise InvalidInput(
            f"chosen and rejected are pairs of preferences, which no mask is for (columns: {told}).",
            hint="To train on what was chosen, map it: to the part completion where it is a reply to the column prompt,"
            " to the part messages where it is a list of all messages.",
            field="format",
        )
    raise InvalidInput(
        f"No known format has these columns: {told or 'none'}.",
        hint=f"Name the format and which column plays each part. Known are {'; '.join(FORMS.values())}.",
        field="format",
    )


def _check_named(named: Mapping[str, str], seen: Mapping[str, str]) -> None:
    """Refuse a part that no format has, and a column that is not there.

    Raises:
        InvalidInput
    """
    parts = sorted({part for shape in SHAPES.values() for part in shape.parts})
    for part, column in named.items():
        if part not in parts:
            raise InvalidInput(
                f"No format has a part {part!r}.", hint=f"There are: {', '.join(parts)}.", field="column_mapping"
            )
        if column not in seen:
            raise InvalidInput(
                f"There is no column {column} to be {part} (columns: {', '.join(seen) or 'none'}).",
                hint="Look at the spelling.",
                field="column_mapping",
            )


def _guessed(name: str, row: Mapping[str, JSON], named: Mapping[str, str]) -> dict[str, str]:
    """Guess the columns; messages with role and content also come under ShareGPT's column name."""
    columns = dict(named)
    if name == "messages" and "messages" not in row and "messages" not in columns and "conversations" in row:
        columns["messages"] = "conversations"
    return columns


def _fits(found: Format, row: Mapping[str, JSON]) -> bool:
    """Return whether a row fits; the first turn of a list tells the two kinds of turns apart."""
    key = {"messages": "role", "sharegpt": "from"}.get(found.name)
    if key is None:
        return True
    turns = list_in(row[found.column(SHAPES[found.name].required[0])])
    return turns is not None and (not turns or (isinstance(turns[0], dict) and key in turns[0]))


def _shown_by(row: Mapping[str, JSON]) -> bool:
    """Return whether an object has the columns of a format, and so is a row."""
    return any(row.keys() >= set(shape.required) for shape in SHAPES.values())


def _said(value: JSON, required: bool) -> JSON:
    """Return a part's value; an empty optional text counts as absent."""
    return None if value == "" and not required else value


def _openai(parts: Parts) -> Sequence[JSON]:
    return list_from(parts["messages"], "messages")


def _sharegpt(parts: Parts) -> Sequence[JSON]:
    messages: list[JSON] = []
    for index, turn in enumerate(list_from(parts["conversations"], "conversations")):
        place = f"conversations[{index}]"
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise InvalidInput("can't be used; give an object with from and value.", field=place)
        speaker = turn["from"]
        if speaker in CALLERS:
            messages.append(_call_turn(turn, place))
            continue
        if not isinstance(speaker, str) or speaker not in SPEAKERS:
            known = ", ".join((*SPEAKERS, *CALLERS))
            raise InvalidInput(f"is from {_shown(speaker)}; known are: {known}.", field=f"{place}.from")
        if turn.get("content") not in (None, "", turn["value"]):
            raise InvalidInput("and content are two texts; leave one of them out.", field=f"{place}.value")
        others = {key: value for key, value in turn.items() if key not in ("from", "value", "role", "content")}
        messages.append({"role": SPEAKERS[speaker], "content": turn["value"], **others})
    return messages


def _prompt_completion(parts: Parts) -> Sequence[JSON]:
    return [
        *_turns(parts["prompt"], "user", "prompt"),
        *_turns(parts["completion"], "assistant", "completion"),
    ]


def _alpaca(parts: Parts) -> Sequence[JSON]:
    messages: list[JSON] = []
    history = parts["history"]
    for index, pair in enumerate(list_from(history, "history") if history is not None else ()):
        if not isinstance(pair, list) or len(pair) != 2:
            raise InvalidInput("can't be used; give a list of question and answer.", field=f"history[{index}]")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    question, more = text_from(parts["instruction"], "instruction"), parts["input"]
    if more is not None and text_from(more, "input"):
        question = f"{question}\n\n{more}"
    answer = text_from(parts["output"], "output")
    return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


#: Formats by name, in the order in which they are looked for.
SHAPES: Final[Mapping[str, Shape]] = {
    "messages": Shape(("messages",), ("system",), _openai),
    "sharegpt": Shape(("conversations",), ("system",), _sharegpt),
    "prompt_completion": Shape(("prompt", "completion"), ("system",), _prompt_completion),
    "alpaca": Shape(("instruction", "output"), ("input", "system", "history"), _alpaca),
}


#: What rows of each format look like, for people.
FORMS: Final[Mapping[str, str]] = {
    "messages": 'messages: [{"role", "content"}, ...]',
    "sharegpt": 'sharegpt: conversations: [{"from", "value"}, ...]',
    "prompt_completion": "prompt_completion: prompt and completion, each text or messages",
    "alpaca": "alpaca: instruction and output, texts",
}


def _call_turn(turn: Mapping[str, JSON], place: str) -> JSON:
    """Convert a turn that calls tools: its value is the JSON text of one or several calls."""
    value = object_in(turn["value"])
    calls = [value] if isinstance(value, dict) else list_in(value)
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        raise InvalidInput(
            'holds no call; give JSON of one: {"name": "...", "arguments": {...}}, or a list of such.',
            field=f"{place}.value",
        )
    others = {key: item for key, item in turn.items() if key not in ("from", "value")}
    return {"role": "assistant", "content": "", "tool_calls": [_call(call) for call in calls], **others}


def _call(call: JSON) -> JSON:
    assert isinstance(call, dict)  # asked by _call_turn
    function = {key: value for key, value in with_known_keys(call).items() if key not in ("id", "type")}
    identifier = {} if call.get("id") is None else {"id": call["id"]}
    if list(function) == ["name"]:
        function["arguments"] = {}  # else what holds them is under a key that is refused
    return {**identifier, "type": "function", "function": function}


def _turns(value: JSON, role: str, part: str) -> Sequence[JSON]:
    """Return text as one message of that role, or a list of messages, also from its JSON text."""
    found = list_in(value)
    if found and all(isinstance(item, dict) and "role" in item for item in found):  # "[]" is text, a reply as any
        return found
    return found if isinstance(value, list) and found else [{"role": role, "content": text_from(value, part)}]


def _shown(value: JSON) -> str:
    return repr(value[:32]) if isinstance(value, str) else kind_of(value)


def _held(value: JSON) -> str:
    """Describe what a column holds, for people who look for their format."""
    if isinstance(value, dict):
        return f"an object with {', '.join(map(str, value)) or 'no keys'}"
    if isinstance(value, list):
        return f"a list whose first item is {_held(value[0])}" if value else "an empty list"
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        is_json = list_in(value) is not None or object_in(value) is not value
        return "text" if is_json else "text that is no JSON"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "a number" if is_number else kind_of(value)  # of its kind, not of this row
