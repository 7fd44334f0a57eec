"""What a case of the graveyard is: a report, an input of ours, and what must come out. Knows no engine.

Rows are written as docs/masks.md writes them: `⟦` and `⟧` enclose what is trained, a number before `⟦` is a weight
other than 1 (0 marks a reply that is not trained), `↵` is a newline; `⌊` and `⌋` enclose text that spells a control
token and must not become one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from turnloom.masks.domain.conversation import JSON


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation as an OpenAI client sends it."""

    document: Mapping[str, JSON]  #: messages, tools


@dataclass(frozen=True, slots=True)
class File:
    """A file of rows, read by the client and by the preprocess worker."""

    kind: str  #: jsonl or parquet
    rows: tuple[Mapping[str, JSON], ...]
    row: int = 0  #: the row that the case is about


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows, whole: text, token boundaries and weights."""

    lines: tuple[str, ...]
    warns: tuple[str, ...] = ()  #: words of warnings that must be given


@dataclass(frozen=True, slots=True)
class Trained:
    """Exactly these stretches of text are trained, in order; the text around them is only looked into."""

    stretches: tuple[str, ...]
    shows: tuple[str, ...] = ()  #: stands in the rendered text
    never: tuple[str, ...] = ()  #: stands nowhere in it
    warns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """No row is made; the sentence holds these words, the place first."""

    words: tuple[str, ...]


Expectation: TypeAlias = Rows | Trained | Refused


@dataclass(frozen=True, slots=True)
class Case:
    """One report."""

    report: str  #: repository#number
    said: str  #: what was reported, in our words
    does: str  #: what Turnloom does with it
    given: Chat | File
    template: str  #: a name in templates.py, or a file of ../shared/templates without its suffix
    expect: Expectation
    also: tuple[str, ...] = ()  #: further reports of the same bug
    options: Mapping[str, object] = field(default_factory=dict)  #: those that are not the defaults
    tokenizer: str = "byte_level"  #: a family of small tokenizers; "qwen3": the real one of ../shared/tokenizers
    special_tokens: Mapping[str, str] = field(default_factory=lambda: {"bos_token": "<s>", "eos_token": "</s>"})
    lints: tuple[str, ...] = ()  #: codes that `turnloom lint` must give
    wrong_today: str = ""  #: why Turnloom fails it today; "" where it does not


def chat(*messages: Mapping[str, JSON], **more: JSON) -> Chat:
    """A conversation of these messages."""
    return Chat({"messages": list(messages), **more})


def jsonl(*rows: Mapping[str, JSON], row: int = 0) -> File:
    """JSON lines."""
    return File("jsonl", rows, row)


def parquet(*rows: Mapping[str, JSON], row: int = 0) -> File:
    """A Parquet file, whose columns give every struct all keys."""
    return File("parquet", rows, row)


def system(text: JSON) -> dict[str, JSON]:
    """A system message."""
    return {"role": "system", "content": text}


def user(text: JSON) -> dict[str, JSON]:
    """A user message."""
    return {"role": "user", "content": text}


def assistant(text: JSON, **more: JSON) -> dict[str, JSON]:
    """An assistant message."""
    return {"role": "assistant", "content": text, **more}


def tool(text: str, **more: JSON) -> dict[str, JSON]:
    """The result of a tool."""
    return {"role": "tool", "content": text, **more}


def call(name: str, arguments: JSON, **more: JSON) -> dict[str, JSON]:
    """A tool call in OpenAI's form."""
    return {**more, "type": "function", "function": {"name": name, "arguments": arguments}}


def schema(name: str, **properties: JSON) -> dict[str, JSON]:
    """A tool with these parameters."""
    parameters: JSON = {"type": "object", "properties": dict(properties)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def rows(*lines: str, warns: tuple[str, ...] = ()) -> Rows:
    """Whole rows in the notation of docs/masks.md."""
    return Rows(lines, warns)


def trained(
    *stretches: str, shows: tuple[str, ...] = (), never: tuple[str, ...] = (), warns: tuple[str, ...] = ()
) -> Trained:
    """Exactly these stretches are trained."""
    return Trained(stretches, shows, never, warns)


def refused(*words: str) -> Refused:
    """Refused with these words."""
    return Refused(words)
