"""Four shapes of a row, each made into a document with messages. Knows no file, no server and no template.

messages           {"messages": [{"role", "content"}, ...], "tools": [...]}        OpenAI's
sharegpt           {"conversations": [{"from", "value"}, ...], "system": "..."}    ShareGPT's
prompt_completion  {"prompt": text or messages, "completion": text or messages}
alpaca             {"instruction", "input", "output", "system", "history": [[question, answer], ...]}

The client reads local files with this, and the preprocess worker everything else, so that both make the same dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from turnloom.conversations import JSON
from turnloom.errors import InvalidInput

#: Who speaks in ShareGPT's data, as chat templates call it.
SPEAKERS: Final = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}
#: Parts of any format that are taken along where a row has them.
COMMON: Final = ("tools", "id")

Parts = Mapping[str, JSON]  # part of the format to the row's value


@dataclass(frozen=True, slots=True)
class Shape:
    """One format: which parts it has, and how they become messages."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    messages: Callable[[Parts], Sequence[JSON]]

    @property
    def parts(self) -> tuple[str, ...]:
        """Every part that a column can play."""
        return (*self.required, *self.optional, *COMMON)


@dataclass(frozen=True, slots=True)
class Format:
    """A shape and the columns that play its parts."""

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
        """The column that plays a part."""
        return self.columns.get(part, part)

    @property
    def used(self) -> list[str]:
        """Every column that is looked at."""
        return [self.column(part) for part in SHAPES[self.name].parts]

    def document(self, row: JSON) -> dict[str, JSON]:
        """The row as {"messages": [...], "tools": ..., "id": ...}; what a message must be is asked by from_json().

        Raises:
            InvalidInput: a column is missing or holds the wrong kind of value.
        """
        if isinstance(row, list) and self.name == "messages":
            row = {self.column("messages"): row}
        if not isinstance(row, dict):
            raise InvalidInput(f"a row must be an object with columns, not {_kind(row)}.")
        for part in SHAPES[self.name].required:
            if row.get(self.column(part)) is None:
                keys = ", ".join(map(str, row)) or "none"
                raise InvalidInput(
                    f"there is no column {self.column(part)} (columns: {keys}).", field=self.column(part)
                )
        parts = {part: row.get(self.column(part)) for part in SHAPES[self.name].parts}
        try:
            messages = SHAPES[self.name].messages(parts)
        except InvalidInput as error:
            part, _, rest = error.field.partition("[")
            raise InvalidInput(
                error.message, hint=error.hint, field=self.column(part) + ("[" + rest if rest else "")
            ) from error
        return {"messages": messages, **{part: parts[part] for part in COMMON if parts[part] is not None}}


def detect(rows: Iterable[JSON], columns: Mapping[str, str] | None = None) -> Format:
    """The format of the first of these rows that shows one.

    Args:
        rows: a few of the first; those that are no objects tell nothing.
        columns: part to column as the user named them; only formats that have these parts are tried.

    Raises:
        InvalidInput: no row shows any; the sentence names the columns that there are.
    """
    named = dict(columns or {})
    seen: Sequence[str] = ()
    for row in rows:
        if isinstance(row, list):
            return Format("messages", named)
        if not isinstance(row, dict):
            continue
        seen = seen or [str(key) for key in row]
        for name, shape in SHAPES.items():
            if named.keys() <= set(shape.parts):
                found = Format(name, _guessed(name, row, named))
                if all(row.get(found.column(part)) is not None for part in shape.required) and _fits(found, row):
                    return found
    raise InvalidInput(
        f"No known format has these columns: {', '.join(seen) or 'none'}.",
        hint=f"Name the format ({', '.join(SHAPES)}) and which column plays each part.",
        field="format",
    )


def _guessed(name: str, row: Mapping[str, JSON], named: Mapping[str, str]) -> dict[str, str]:
    """Messages with role and content also come under ShareGPT's column name."""
    columns = dict(named)
    if name == "messages" and "messages" not in row and "messages" not in columns and "conversations" in row:
        columns["messages"] = "conversations"
    return columns


def _fits(found: Format, row: Mapping[str, JSON]) -> bool:
    """Lists of turns tell by their first turn which of the two kinds they are."""
    key = {"messages": "role", "sharegpt": "from"}.get(found.name)
    if key is None:
        return True
    turns = row[found.column(SHAPES[found.name].required[0])]
    return isinstance(turns, list) and (not turns or (isinstance(turns[0], dict) and key in turns[0]))


def _openai(parts: Parts) -> Sequence[JSON]:
    return _list(parts["messages"], "messages")


def _sharegpt(parts: Parts) -> Sequence[JSON]:
    messages = _system(parts)
    for index, turn in enumerate(_list(parts["conversations"], "conversations")):
        place = f"conversations[{index}]"
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise InvalidInput("must be an object with from and value.", field=place)
        speaker = turn["from"]
        if not isinstance(speaker, str) or speaker not in SPEAKERS:
            raise InvalidInput(f"is from {_shown(speaker)}; known are: {', '.join(SPEAKERS)}.", field=f"{place}.from")
        others = {key: value for key, value in turn.items() if key not in ("from", "value")}
        messages.append({"role": SPEAKERS[speaker], "content": turn["value"], **others})
    return messages


def _prompt_completion(parts: Parts) -> Sequence[JSON]:
    return [
        *_system(parts),
        *_turns(parts["prompt"], "user", "prompt"),
        *_turns(parts["completion"], "assistant", "completion"),
    ]


def _alpaca(parts: Parts) -> Sequence[JSON]:
    messages = _system(parts)
    history = parts["history"]
    for index, pair in enumerate(_list(history, "history") if history is not None else ()):
        if not isinstance(pair, list) or len(pair) != 2:
            raise InvalidInput("must be a list of question and answer.", field=f"history[{index}]")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    question, more = _text(parts["instruction"], "instruction"), parts["input"]
    if more is not None and _text(more, "input"):
        question = f"{question}\n\n{more}"
    answer = _text(parts["output"], "output")
    return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


#: Formats by name, in the order in which they are looked for.
SHAPES: Final[Mapping[str, Shape]] = {
    "messages": Shape(("messages",), (), _openai),
    "sharegpt": Shape(("conversations",), ("system",), _sharegpt),
    "prompt_completion": Shape(("prompt", "completion"), ("system",), _prompt_completion),
    "alpaca": Shape(("instruction", "output"), ("input", "system", "history"), _alpaca),
}


def _system(parts: Parts) -> list[JSON]:
    text = parts["system"]
    return [] if text in (None, "") else [{"role": "system", "content": _text(text, "system")}]


def _turns(value: JSON, role: str, part: str) -> Sequence[JSON]:
    """Text as one message of that role; a list of messages as it is."""
    return value if isinstance(value, list) else [{"role": role, "content": _text(value, part)}]


def _list(value: JSON, part: str) -> Sequence[JSON]:
    if not isinstance(value, list):
        raise InvalidInput(f"is {_kind(value)}, but must be a list.", field=part)
    return value


def _text(value: JSON, part: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"is {_kind(value)}, but must be text.", field=part)
    return value


def _kind(value: JSON) -> str:
    kinds = {type(None): "null", bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def _shown(value: JSON) -> str:
    return repr(value[:32]) if isinstance(value, str) else _kind(value)
