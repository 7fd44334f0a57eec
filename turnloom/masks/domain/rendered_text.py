"""The values passed from rendering to message spans to tokenizing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

TOOLS: Final = -1  #: `Origin.message_index` of text that came from the tool schemas
UNKNOWN: Final = -2  #: text that is certainly not a literal of the template, but whose message can't be told
#: Characters [start, end) that share a weight, in order and disjoint; characters in no span weigh 0.
WeightSpan: TypeAlias = "tuple[int, int, float]"


class Origin(NamedTuple):
    """Where a run of rendered characters came from."""

    message_index: int  #: position in the conversation, or TOOLS, or UNKNOWN
    field: (
        str  #: first key inside the message: "content", "reasoning_content", "tool_calls", ...; "" where several mixed
    )


@dataclass(frozen=True, slots=True)
class RenderedText:
    """What the template printed, and of every character where it came from."""

    text: str
    #: (characters, origin) in order, lengths > 0 summing to len(text); None: the template's own literal
    runs: Sequence[tuple[int, Origin | None]]
    #: [start, end) of every {% generation %} block that printed something, in order; empty without such blocks
    generation_blocks: Sequence[tuple[int, int]] = ()


def first_runs(runs: Sequence[tuple[int, Origin | None]], characters: int) -> list[tuple[int, Origin | None]]:
    """Return the runs of the first `characters` characters."""
    kept: list[tuple[int, Origin | None]] = []
    for length, origin in runs:
        taken = min(length, characters)
        if taken:
            kept.append((taken, origin))
        characters -= taken
    return kept


def runs_behind(runs: Sequence[tuple[int, Origin | None]], characters: int) -> list[tuple[int, Origin | None]]:
    """Return the runs of all but the first `characters` characters."""
    kept: list[tuple[int, Origin | None]] = []
    for length, origin in runs:
        left = length - min(length, characters)
        if left:
            kept.append((left, origin))
        characters -= length - left
    return kept


class Kind(Enum):
    """What a character of the rendered text is to a reader of a mask."""

    HEADER = "header"  # outside every message span: prompts, role headers, what stands between turns
    CONTENT = "content"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"
    SCAFFOLD = "scaffold"  # literals of the template between the parts of one message span
    EOT = "eot"  # the end-of-turn literal


class Part(NamedTuple):
    """A stretch of one kind inside a message span."""

    start: int  #: characters from the start of the rendered text
    end: int  #: > start
    kind: Kind


class MessageSpan(NamedTuple):
    """The characters of one message that the model itself would have to emit (for other roles: the message's turn).

    A tuple, since thousands are made a second.
    """

    message_index: int
    role: str
    start: int  #: character after the generation prompt
    eot_start: int  #: first character of the end-of-turn literal; == end where the template closes no turn
    end: int  #: character after the end-of-turn literal
    trailing_end: int  #: character after the white space that follows, == end where there is none
    located_by: str  #: how start and end were found: "generation_prompt/eot", "prefix/eot", "generation_block", ...
    parts: tuple[Part, ...] = ()  #: cover [start, end) without holes, in order


@dataclass(frozen=True, slots=True)
class Located:
    """What was found of the turns of one rendered text."""

    message_spans: tuple[MessageSpan, ...]  #: of the messages asked for, in order of the text
    warnings: tuple[str, ...]
    #: (message index, first character) of every assistant turn that could be located, in order of the text
    begins: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class View:
    """One example to be: the messages it shows, where their message spans lie, and which of them it trains.

    The views of one conversation train disjoint sets of messages. `message_index` counts in the whole conversation:
    every view shows a prefix of it.
    """

    rendered: RenderedText
    message_spans: tuple[MessageSpan, ...]  #: in order of the text, disjoint; those a policy of this request may weigh
    trained: frozenset[int]  #: message indices whose message spans may carry weight in this view
    messages: int  #: how many messages the view shows: the first `messages` of the conversation
    warnings: tuple[str, ...] = ()
    #: ascending characters at which a token boundary is forced: the start of every assistant span that can
    #: be located, trained or not, so that ids do not depend on what is trained
    boundaries: tuple[int, ...] = ()
    final_stop: str = ""  #: what would end the last turn were the conversation to go on, where ensure_final_stop asks
