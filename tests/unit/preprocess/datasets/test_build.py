"""What a dataset's record says of warnings that hold for many conversations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from services.preprocess.datasets.build import DatasetBuild, Totals
from services.preprocess.wire.dataset import _warnings
from services.store.records import WarningRecord
from services.store.shards.dataset_rows import Runs
from turnloom.masks.domain.example import PreprocessedConversation

PASSED_OVER = "the key mood is passed over: the template reads no such key"


class NoRows:
    """A writer for conversations without examples."""

    def add(self, conversation: int, part: int, token_ids: NDArray[np.int32], runs: Runs, target_bytes: int) -> None:
        raise AssertionError


def totals(*warned: bool) -> Totals:
    build = DatasetBuild(NoRows())
    build.add([PreprocessedConversation((), (PASSED_OVER,) if one else ()) for one in warned])
    return build.totals()


def test_a_warning_that_holds_for_many_conversations_is_kept_once_with_their_number() -> None:
    shards = [totals(False, True, True), totals(False), totals(True)]
    first = replace(shards[2], warnings=tuple(replace(one, conversation_index=4) for one in shards[2].warnings))
    whole = Totals.of_all([*shards[:2], first])
    assert whole.warnings == (WarningRecord(1, PASSED_OVER, more=2),)
    (told,) = _warnings(whole.warnings)
    assert (told.conversation_index, told.message) == (1, f"{PASSED_OVER} (and 2 more conversations)")
    (alone,) = _warnings(totals(True).warnings)
    assert alone.message == PASSED_OVER
