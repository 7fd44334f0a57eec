"""The values that pass from rendering to regions to tokenizing. Knows no Jinja and no tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TOOLS: Final = -1  #: `Origin.message_index` of text that came from the tool schemas
UNKNOWN: Final = -2  #: text that is certainly not a literal of the template, but whose message can't be told


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run of rendered characters came from."""

    message_index: int  #: position in the conversation, or TOOLS, or UNKNOWN
    field: str  #: first key inside the message: "content", "reasoning_content", "tool_calls", ...


@dataclass(frozen=True, slots=True)
class RenderedText:
    """What the template printed, and of every character where it came from."""

    text: str
    runs: Sequence[tuple[int, Origin | None]]  #: (characters, origin) in order, lengths > 0 summing to len(text); None: the template's own literal


@dataclass(frozen=True, slots=True)
class Region:
    """The characters of one message that the model itself would have to emit (for other roles: the message's turn)."""

    message_index: int
    role: str
    start: int  #: character after the generation prompt
    eot_start: int  #: first character of the end-of-turn literal; == end where the template closes no turn
    end: int  #: character after the end-of-turn literal
    trailing_end: int  #: character after the white space that follows, == end where there is none
    located_by: str  #: how start and end were found: "generation_prompt/eot", "prefix/eot", "generation_block", ...
