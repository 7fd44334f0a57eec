"""An evaluation by row: in the order of the dataset, whatever the calls were, and back from its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.store.blobs.evaluations import Evaluations, RowLosses
from services.store.blobs.objects import Objects
from services.store.errors import NotFound
from services.trainer import evaluation
from services.trainer.backend import Logprobs
from services.trainer.batches.rows import Row
from services.trainer.evaluation import evaluate
from tests.support.trainer_parts import conversations


@dataclass
class Done:
    value: Sequence[Logprobs]

    def result(self) -> Sequence[Logprobs]:
        return self.value


class Formula:
    """A backend whose logprob of a target is minus the token / 10."""

    def forward(self, rows: Sequence[Row]) -> Done:
        return Done([-(row.token_ids[1:] / 10).astype(np.float32) for row in rows])


@given(st.integers(1, 40), st.integers(0, 5), st.integers(1, 200), st.integers(1, 9))
def test_losses_stand_in_the_order_of_the_rows_whatever_the_calls_and_add_up_to_the_sums(
    count: int, seed: int, budget: int, in_memory: int
) -> None:
    rows = conversations(count, seed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluation, "ROWS_IN_MEMORY", in_memory)
        found = evaluate(Formula(), rows, budget)  # type: ignore[arg-type]  # only forward is used
    assert found is not None
    expected = [float(np.sum(row.token_ids[1:] / 10 * row.target_weights)) for row in rows]
    assert found.losses.nll_sum == pytest.approx(expected, rel=1e-5)
    assert found.losses.conversation.tolist() == [row.conversation for row in rows]
    assert found.losses.weight_sum.tolist() == [row.weight_sum for row in rows]
    assert found.nll_sum == pytest.approx(sum(expected), rel=1e-6)
    assert found.weight_sum == sum(row.weight_sum for row in rows)
    assert found.target_bytes == sum(row.target_bytes for row in rows)


def test_a_file_gives_back_what_was_written_and_goes_with_its_job(tmp_path: Path) -> None:
    files = Evaluations(str(tmp_path))
    losses = RowLosses(
        np.array([0, 0, 7], np.uint32), np.array([0.1, 2.5, 3], np.float32), np.array([1, 2, 0.5], np.float32)
    )
    for _ in range(2):
        files.put("job-1", 30, losses)
    found = files.get("job-1", 30)
    for name in ("conversation", "nll_sum", "weight_sum"):
        assert getattr(found, name).tolist() == getattr(losses, name).tolist()
        assert getattr(found, name).dtype == getattr(losses, name).dtype
    Objects(str(tmp_path)).delete_job("job-1")
    with pytest.raises(NotFound, match="the loss of each test example at step 30 was not kept"):
        files.get("job-1", 30)
