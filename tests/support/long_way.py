"""Outcomes of preprocessing to be compared, and what the way without lanes gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from turnloom.masks import pipeline as preprocessing
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.domain.example import PreprocessedConversation
from turnloom.masks.domain.options import Options
from turnloom.masks.model import Model
from turnloom.masks.pipeline import preprocess_batch


def told(outcome: PreprocessedConversation | PreprocessError) -> object:
    """All that can be seen of an outcome."""
    if isinstance(outcome, PreprocessError):
        return type(outcome), str(outcome), outcome.message_index, outcome.field
    rows = [
        (row.token_ids.tolist(), row.weight_runs, row.part, row.target_bytes, row.truncated_tokens)
        for row in outcome.examples
    ]
    return rows, list(outcome.warnings), list(outcome.escaped), [row.truncated_loss_tokens for row in outcome.examples]


def by_the_long_way(conversations: Sequence[Conversation], options: Options, made: Model) -> list[object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing, "fast_path_of", lambda *_: None)
        patch.setattr(preprocessing, "trajectory_path_of", lambda *_: None)
        return [told(outcome) for outcome in preprocess_batch(conversations, options, made)]
