"""What the GPU benchmark calculates: shares of time, FLOPs, series, lengths of its chats."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gpu.conversations import MU, SIGMA, chats
from bench.gpu.figures import (
    GEOMETRY,
    busy_seconds,
    largest_relative_difference,
    lora_flops,
    mean_between,
    medians,
    paired,
    series_is_continuous,
    together_rate,
)
from bench.gpu.report import table
from bench.gpu.rows_file import loaded_rows, saved_rows

SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted).map(tuple), max_size=8)


@given(SPANS, st.integers(0, 25), st.integers(26, 50))
def test_busy_time_is_that_of_the_union_of_spans(spans: list[tuple[int, int]], begin: int, end: int) -> None:
    ticks = [any(start <= tick < stop for start, stop in spans) for tick in range(begin, end)]
    assert busy_seconds(spans, begin, end) == sum(ticks)


def test_requests_are_paired_by_their_id_and_an_open_one_lasts_to_the_end() -> None:
    events = [(1.0, "enqueued", "a"), (2.0, "enqueued", "b"), (3.0, "completed", "a"), (3.5, "completed", "unknown")]
    assert paired(events, 9.0) == [(1.0, 3.0), (2.0, 9.0)]


def test_the_4b_geometry_has_the_size_of_its_name() -> None:
    assert GEOMETRY["4b"].matrix_parameters == pytest.approx(4.02e9, rel=0.01)
    assert GEOMETRY["0.6b"].matrix_parameters == pytest.approx(0.596e9, rel=0.01)


def test_flops_grow_faster_than_length_by_attention_alone() -> None:
    geometry = GEOMETRY["0.6b"]
    twice_as_long, two_rows = lora_flops(geometry, [2000]), lora_flops(geometry, [1000, 1000])
    attention = 3 * 2 * geometry.heads * geometry.head_dim * geometry.layers
    assert twice_as_long - two_rows == pytest.approx(attention * (2000**2 - 2 * 1000**2))


def test_the_largest_difference_is_relative_and_ends_with_the_shorter_series() -> None:
    assert largest_relative_difference([1.0, 2.2, 9.0], [1.0, 2.0]) == pytest.approx(0.1)


@pytest.mark.parametrize("steps", [[1, 2, 2, 3], [1, 3], [2, 1, 3], [1, 2, 3, 4]])
def test_a_series_with_a_hole_or_a_step_twice_is_not_continuous(steps: list[int]) -> None:
    assert not series_is_continuous(steps, 3)
    assert series_is_continuous([1, 2, 3], 3)


def test_means_and_medians_leave_out_what_is_not_there() -> None:
    assert mean_between([(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)], 0.5, 2.0) == 8.0
    assert mean_between([], 0.0, 1.0) is None
    assert medians([{"a": 1.0, "b": None}, {"a": 3.0}, {"a": 2.0}]) == {"a": 2.0}


def test_lengths_have_the_mean_and_the_tail_of_no_robots() -> None:
    assert math.exp(MU + SIGMA**2 / 2) == pytest.approx(384)
    assert math.exp(MU + 1.645 * SIGMA) == pytest.approx(1000, rel=0.01)


def test_chats_are_the_same_for_a_seed_and_end_with_an_assistant() -> None:
    assert chats(20, seed=3) == chats(20, seed=3)
    assert chats(20, seed=3) != chats(20, seed=4)
    assert all(chat["messages"][-1]["role"] == "assistant" for chat in chats(50))


def test_rows_come_back_from_their_file_as_they_were(tmp_path) -> None:
    rows = [(0, [5, 6, 7], [0.0, 1.0]), (1, [8, 9], [0.5]), (2, [1, 2, 3, 4], [1.0, 0.0, 1.0])]
    arrays = [(c, np.array(ids, np.int32), np.array(weights, np.float32)) for c, ids, weights in rows]
    saved_rows(tmp_path / "rows.npz", arrays)
    back = [
        (r.conversation, r.token_ids.tolist(), r.target_weights.tolist()) for r in loaded_rows(tmp_path / "rows.npz")
    ]
    assert back == rows


def test_the_table_shows_medians_and_the_error_of_who_never_ran() -> None:
    runs = [{"name": "a", "error": "", "tokens_per_second": value} for value in (100.0, 300.0, 200.0)]
    lines = list(table([*runs, {"name": "b", "error": "ValueError: CUDA out of memory"}]))
    assert lines[2].startswith("| a | 3 of 3 | 200 |")
    assert lines[3] == "| b | 0 of 1 | ValueError: CUDA out of memory |"


def test_two_runs_together_make_the_tokens_of_the_time_in_which_both_trained() -> None:
    times = [[0.0, 1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 9.0]]
    tokens = [[10, 10, 10, 10, 10], [7, 7, 7, 7]]
    assert together_rate(times, tokens) == pytest.approx((3 * 10 + 2 * 7) / 2.5)  # from 1.5 to 4.0
    assert together_rate([times[0], times[0]], [tokens[0]] * 2) == pytest.approx(2 * 10)


def test_runs_that_did_not_overlap_have_no_common_rate() -> None:
    with pytest.raises(ValueError, match="did not train at the same time"):
        together_rate([[0.0, 1.0], [2.0, 3.0]], [[1, 1], [1, 1]])
