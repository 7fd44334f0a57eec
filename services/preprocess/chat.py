"""A template with its settings, asked for probes and prompts. Knows no regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.preprocess.control_tokens import ControlTokens
from services.preprocess.conversation import JSON, Message
from services.preprocess.errors import TemplateRefused
from services.preprocess.options import GenerationPrefill
from services.preprocess.rendering import Settings, render_plain
from services.preprocess.templates import CompiledTemplate

#: Settings by which templates choose between a thinking and a plain generation prompt.
VARIANTS: Final[tuple[Mapping[str, JSON], ...]] = (
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"thinking": True},
    {"thinking": False},
)
PROBE: Final[Message] = {"role": "user", "content": "Next question."}
PLAIN_REPLY: Final[Message] = {"role": "assistant", "content": "Yes."}


@dataclass(frozen=True, slots=True)
class Chat:
    """What is constant while the turns of one conversation are located."""

    template: CompiledTemplate
    settings: Settings
    tools: Sequence[JSON] | None
    control: ControlTokens
    prefill: GenerationPrefill

    def text(self, messages: Sequence[Message], *, prompt: bool = False, **kwargs: JSON) -> str | None:
        """The plain render, None where the template refuses."""
        settings = self.settings if not kwargs else replace(self.settings, kwargs={**self.settings.kwargs, **kwargs})
        try:
            return render_plain(messages, self.tools, self.template, settings, add_generation_prompt=prompt)
        except TemplateRefused:
            return None


def common_length(one: str, other: str) -> int:
    """Length of the common beginning, found by halving: C compares slices, Python would compare characters."""
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
