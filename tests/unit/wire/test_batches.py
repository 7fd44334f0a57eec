from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnloom.errors import DamagedDownload
from turnloom.v1 import types_pb2
from turnloom.wire.batches import Batch

ROWS = st.lists(
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=12),
    max_size=5,
)


def pack(rows: list[list[tuple[int, float]]]) -> types_pb2.TokenBatch:
    """A batch by the words of the proto; the weight beside a row's first token is not used."""
    batch = types_pb2.TokenBatch()
    ids: list[int] = []
    for index, row in enumerate(rows):
        ids += [token for token, _ in row]
        batch.row_lengths.append(len(row))
        weights = [weight for _, weight in row[1:]]
        starts = [0] + [i for i in range(1, len(weights)) if weights[i] != weights[i - 1]] + [len(weights)]
        batch.weight_run_lengths.extend(np.diff(starts).tolist())
        batch.weight_run_values.extend(weights[start] for start in starts[:-1])
        batch.weight_runs_per_row.append(len(starts) - 1)
        batch.conversation_index.append(index * 2)
        batch.part.append(index % 3)
    batch.token_ids = np.array(ids, dtype="<i4").tobytes()
    return batch


@given(ROWS)
def test_rows_come_back_as_they_were_sent(rows: list[list[tuple[int, float]]]) -> None:
    batch = Batch(pack(rows))
    assert len(batch) == len(rows)
    for index, (row, sent) in enumerate(zip(batch, rows, strict=True)):
        assert row.token_ids.tolist() == [token for token, _ in sent]
        assert row.target_weights.tolist() == [weight for _, weight in sent[1:]]
        assert (row.conversation_index, row.part) == (index * 2, index % 3)
        assert len(row.input_ids) == len(row.target_ids) == len(row.target_weights)
    assert batch.loss_tokens == sum(weight > 0 for row in rows for _, weight in row[1:])


def test_rows_are_views_of_the_received_bytes() -> None:
    batch = Batch(pack([[(1, 0.0), (2, 1.0)], [(3, 0.0), (4, 1.0)]]))
    assert np.shares_memory(batch[1].token_ids, batch.token_ids)
    assert not batch[1].token_ids.flags.writeable
    assert batch[-1].token_ids.tolist() == [3, 4]
    with pytest.raises(IndexError, match="row 2 of 2"):
        batch[2]


@pytest.mark.parametrize("column", ["row_lengths", "weight_run_lengths", "weight_runs_per_row", "part"])
def test_columns_that_do_not_fit_are_refused(column: str) -> None:
    message = pack([[(1, 0.0), (2, 1.0)]])
    getattr(message, column).append(2)
    with pytest.raises(DamagedDownload, match="columns don't fit"):
        Batch(message)
