"""A job as a caller asks for it, before it is checked against datasets, models and hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.store.records import Hyperparameters, MixPart, StartFrom
from turnloom.masks.domain.conversation import Conversation


@dataclass(frozen=True, slots=True)
class Sampled:
    """Replies that are wanted while a job trains."""

    prompts: Sequence[Conversation]  #: at least one; the last message of each is not the assistant's
    every: int  #: steps; 0: only at the end
    max_tokens: int  #: of a reply


@dataclass(frozen=True, slots=True)
class JobDraft:
    """A requested job, fields in range."""

    model: str
    training: tuple[MixPart, ...]  #: one dataset, or those of a mixture
    test_dataset: str
    hyperparameters: Hyperparameters
    metadata: Mapping[str, str]
    host: str
    start_from: StartFrom | None
    given: frozenset[str] = field(default_factory=frozenset)  #: hyperparameters that the caller named
    priority: int = 0
    sampled: Sampled | None = None
