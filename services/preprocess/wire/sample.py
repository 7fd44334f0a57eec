"""Read SampleRequest, each field within its bounds, and write a reply as SampleResponse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from services.preprocess.domain.limits import Violations
from services.preprocess.wire.conversation import conversation
from services.preprocess.wire.issues import violation
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import PreprocessError
from turnloom.v1 import training_pb2 as pb
from turnloom.v1 import types_pb2 as ty

DEFAULT_TOKENS: Final = 256
MAX_TOKENS: Final = 4_096  #: more would rarely be ready within the call's deadline
MAX_TEMPERATURE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt for an adapter, and how to draw its reply."""

    checkpoint: str  #: id; empty: the last one
    base: bool  #: the base model answers, without an adapter
    conversation: Conversation  #: its last message is not the assistant's
    max_tokens: int | None  #: 1 to MAX_TOKENS; None: DEFAULT_TOKENS, or what the model has room for
    temperature: float  #: 0 to MAX_TEMPERATURE
    top_p: float  #: > 0 and <= 1
    seed: int | None  #: None: another reply each time


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of an adapter."""

    text: str
    tokens: int  #: the end-of-turn token included
    finish_reason: str  #: "stop" or "length"
    prompt_tokens: int
    checkpoint: str  #: id of the one that answered; empty: the base model


def asked(request: pb.SampleRequest) -> Asked:
    """Read a request.

    Raises:
        InvalidRequest: every field that is wrong.
    """
    violations = Violations()
    if request.max_tokens > MAX_TOKENS:
        violations.add("max_tokens", f"is {request.max_tokens}; give 1 to {MAX_TOKENS}.")
    temperature = request.temperature if request.HasField("temperature") else 1.0
    if not (math.isfinite(temperature) and 0 <= temperature <= MAX_TEMPERATURE):
        violations.add("temperature", f"is {temperature:g}; give a number from 0 to {MAX_TEMPERATURE:g}.")
    top_p = request.top_p if request.HasField("top_p") else 1.0
    if not (math.isfinite(top_p) and 0 < top_p <= 1):
        violations.add("top_p", f"is {top_p:g}; give a number above 0 and at most 1.")
    if request.base and request.checkpoint:
        violations.add("checkpoint", "is an adapter's, and the base model answers without one; leave one of them out.")
    said = to_answer(request.conversation, "conversation", violations)
    violations.refuse()
    assert said is not None  # else there is a violation
    seed = request.seed if request.HasField("seed") else None
    return Asked(request.checkpoint, request.base, said, request.max_tokens or None, temperature, top_p, seed)


def to_answer(message: ty.Conversation, field: str, violations: Violations) -> Conversation | None:
    """Return a conversation whose last message is to be answered; None: it is none, and a violation says why."""
    last = len(message.messages) - 1
    if last < 0:
        violations.add(f"{field}.messages", "is empty; give at least the message that is to be answered.")
        return None
    if message.messages[last].role == "assistant":
        violations.add(f"{field}.messages[{last}].role", "is 'assistant'; end with the message that is to be answered.")
        return None
    try:
        return conversation(message)
    except PreprocessError as error:
        found = violation(field, error)
        violations.add(found.field, found.description)
        return None


def response(reply: Reply) -> pb.SampleResponse:
    """Return the message for a reply."""
    return pb.SampleResponse(
        text=reply.text,
        tokens=reply.tokens,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        checkpoint=reply.checkpoint,
    )
