"""Outcomes of preprocessing to be compared, and what the way without lanes gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.preprocess import preprocessing
from services.preprocess.conversation import Conversation
from services.preprocess.errors import PreprocessError
from services.preprocess.examples import Preprocessed
from services.preprocess.models import Model
from services.preprocess.options import Options
from services.preprocess.preprocessing import preprocess_batch


def told(outcome: Preprocessed | PreprocessError) -> object:
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
        patch.setattr(preprocessing, "lane_of", lambda *_: None)
        return [told(outcome) for outcome in preprocess_batch(conversations, options, made)]
