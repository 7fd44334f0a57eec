"""Columns of tokens and weights hold exactly what the rows hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.preprocess.wire.batch import examples, rows_of, token_batch
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.domain.example import PreprocessedConversation, TokenizedExample
from turnloom.v1 import types_pb2 as pb

RUNS = st.lists(
    st.tuples(st.integers(1, 50), st.floats(0, 4, width=32)), min_size=1, max_size=5
)  # (targets, weight) of one row


@st.composite
def rows(draw: st.DrawFn) -> tuple[int, TokenizedExample]:
    runs = tuple(draw(RUNS))
    count = sum(length for length, _ in runs) + 1
    first = draw(st.integers(0, 2**31 - 1 - count))
    example = TokenizedExample(
        token_ids=np.arange(first, first + count, dtype=np.int32),
        weight_runs=runs,
        part=draw(st.integers(0, 63)),
        target_bytes=draw(st.integers(0, 2**32 - 1)),
    )
    return draw(st.integers(0, 2**32 - 1)), example


@given(st.lists(rows(), max_size=6))
def test_a_batch_gives_back_its_rows(given_rows: list[tuple[int, TokenizedExample]]) -> None:
    batch = pb.TokenBatch.FromString(token_batch(given_rows).SerializeToString())
    assert len(batch.token_ids) == 4 * sum(batch.row_lengths)
    found = examples(batch)
    assert [index for index, _ in found] == [index for index, _ in given_rows]
    for (_, sent), (_, got) in zip(given_rows, found, strict=True):
        assert np.array_equal(sent.token_ids, got.token_ids)
        assert np.array_equal(sent.target_weights(), got.target_weights())
        assert (sent.part, sent.target_bytes) == (got.part, got.target_bytes)


def test_bad_conversations_give_no_rows_and_shift_no_index() -> None:
    row = TokenizedExample(np.array([1, 2], dtype=np.int32), ((1, 1.0),))
    found = rows_of(
        10,
        [
            PreprocessError("no"),
            PreprocessedConversation([row, row]),
            PreprocessError("no"),
            PreprocessedConversation([row]),
        ],
    )
    assert [index for index, _ in found] == [11, 11, 13]


def test_columns_that_contradict_each_other_are_refused() -> None:
    batch = token_batch([(0, TokenizedExample(np.array([1, 2], dtype=np.int32), ((1, 1.0),)))])
    batch.row_lengths[0] = 3
    with pytest.raises(ValueError, match="do not sum to the columns"):
        examples(batch)
