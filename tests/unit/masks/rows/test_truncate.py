from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from turnloom.masks.domain.example import WeightedTokens
from turnloom.masks.rows.truncate import cut_left, cut_right


def row(size: int, spans: list[tuple[int, int, float]]) -> WeightedTokens:
    return WeightedTokens(np.arange(size, dtype=np.int32), spans)


def test_right_keeps_the_first_tokens_and_what_they_weigh() -> None:
    kept = cut_right(row(10, [(2, 4, 1.0), (5, 9, 0.5)]), 6)
    assert kept.token_ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert kept.spans == [(2, 4, 1.0), (5, 6, 0.5)]
    assert kept.first == 0


def test_left_keeps_the_last_tokens_and_says_where_they_began() -> None:
    kept = cut_left(row(10, [(2, 4, 1.0), (5, 9, 0.5)]), 6)
    assert kept.token_ids.tolist() == [4, 5, 6, 7, 8, 9]
    assert kept.spans == [(1, 5, 0.5)]
    assert kept.first == 4


def test_the_first_token_of_a_row_is_no_target() -> None:
    assert row(4, [(0, 2, 1.0)]).loss_tokens() == 1
    assert row(4, [(0, 1, 1.0)]).loss_tokens() == 0


@given(st.integers(3, 30), st.data())
def test_both_cuts_keep_max_length_tokens_and_their_weights(size: int, data: st.DataObject) -> None:
    bounds = sorted(data.draw(st.sets(st.integers(0, size), min_size=2)))
    spans = [(start, end, 1.0) for start, end in zip(bounds[::2], bounds[1::2], strict=False)]
    length = data.draw(st.integers(2, size - 1))
    weights = np.zeros(size)
    for start, end, weight in spans:
        weights[start:end] = weight
    for cut, window in ((cut_right, slice(0, length)), (cut_left, slice(size - length, size))):
        kept = cut(row(size, spans), length)
        found = np.zeros(length)
        for start, end, weight in kept.spans:
            found[start:end] = weight
        assert len(kept.token_ids) == length
        assert found.tolist() == weights[window].tolist()
