"""A template with its settings, rendered for probes and prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from turnloom.masks.domain.conversation import JSON, Message
from turnloom.masks.domain.errors import TemplateRefused
from turnloom.masks.domain.options import GenerationPrefill
from turnloom.masks.template.added_token_text import AddedTokenFinder
from turnloom.masks.template.compiled import CompiledTemplate
from turnloom.masks.template.render import Renders

#: Settings by which templates choose between a thinking and a plain generation prompt.
VARIANTS: Final[tuple[Mapping[str, JSON], ...]] = (
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"thinking": True},
    {"thinking": False},
)
PROBE: Final[Message] = {"role": "user", "content": "Next question."}
PLAIN_REPLY: Final[Message] = {"role": "assistant", "content": "Yes."}


@dataclass(slots=True)
class Known:
    """What earlier turns of one conversation showed of later ones, whose literals are the same."""

    appended: str = ""  #: what add_generation_prompt appends
    #: (text after a turn, its message's keys) -> where its end-of-turn literal begins and ends, whether there is one
    ends: dict[tuple[object, ...], tuple[int, int, bool]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chat:
    """What is constant while the turns of one conversation are located."""

    template: CompiledTemplate
    renders: Renders  #: of the conversation's messages, and of others under its settings and tools
    tools: Sequence[JSON] | None
    control: AddedTokenFinder
    prefill: GenerationPrefill
    known: Known = field(default_factory=Known)

    def text(self, messages: Sequence[Message], *, prompt: bool = False, **kwargs: JSON) -> str | None:
        """Return the plain render, None where the template refuses."""
        try:
            return self.renders.text(messages, prompt=prompt, **kwargs)
        except TemplateRefused:
            return None


def common_length(one: str, other: str) -> int:
    """Return the length of the common prefix, by halving: C compares slices, Python would compare characters."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
