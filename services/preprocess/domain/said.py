"""What a job's adapter said while it trained, as people read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Said:
    """One reply."""

    step: int  #: after which it was sampled
    prompt: int  #: from 1
    asked: str  #: the prompt's last message, cut short
    text: str  #: of the reply
    tokens: int  #: generated, the stop token included
    finish_reason: str  #: "stop" or "length"
    time: float
