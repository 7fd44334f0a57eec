"""A conversation as the user sends it, in plain values. Imports no protobuf, template or tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from turnloom.foreign.part_types import ADVICE
from turnloom.foreign.plain_values import as_float32
from turnloom.foreign.truth import truth_of

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
#: A message as chat templates see it: `role`, `content`, `reasoning_content`, `tool_calls`, `name`, `tool_call_id`
#: and any other key the sender gave. Key order is kept: `message | tojson` prints it.
Message: TypeAlias = "dict[str, JSON]"
#: What to write instead of a part of content that templates have not, by its type.
PART_ADVICE: Final = ADVICE
#: Returns a weight as rows have it.
row_weight: Final = as_float32
#: Returns what a value says that means true or false.
said_truth: Final = truth_of
#: Names a message's reasoning is given under.
REASONING_FIELDS: Final = ("reasoning_content", "thinking", "reasoning")
#: Names of the message format itself: as dictionary keys templates spell them, and they are no one's text.
STRUCTURE: Final = frozenset(
    {"role", "content", "name", "type", "text", "id", "function", "arguments", "tool_calls", "tool_call_id"}
    | {"reasoning_content", "parameters", "description", "properties", "required", "items", "enum", "default"}
    | {"title", "strict"}
)


@dataclass(frozen=True, slots=True)
class Training:
    """What the sender says of training on one message, beside its text. Templates never see it."""

    trainable: bool | None = None  #: None: the policy decides. Read only by TrainOn.CUSTOMIZED.
    weight: float | None = (
        None  #: factor on the target weights of this message's tokens, a finite float32 >= 0; None is 1.0
    )


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, with the tools offered to the model."""

    messages: Sequence[Message]
    tools: Sequence[JSON] | None = None  #: JSON schemas as given; None: the template gets no tools
    training: Sequence[Training] = field(default=())  #: empty, or one entry per message
    id: str = ""  #: the sender's name for it; reported back, never rendered
