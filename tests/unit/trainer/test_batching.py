"""Which rows a step sees, and how it is cut into calls."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.store.shards.row_index import RowIndex
from services.trainer.batches.batching import (
    CALL_OVERHEAD,
    MOST_CALL_TOKENS,
    SAFE_CALL_TOKENS,
    STEPS_PER_DOUBLING,
    Batches,
    call_tokens,
    calls,
    filled,
    longest_first,
)
from services.trainer.batches.dataset import trained_rows
from services.trainer.batches.mixing import Part
from services.trainer.batches.rows import Row, shortened, without_tail
from services.trainer.checkpoints import PROBE_TOKENS, probe_rows
from tests.support.trainer_parts import batches, conversations, row

lengths = st.lists(st.integers(2, 40), min_size=1, max_size=60)


def identity(one: Row) -> tuple[int, tuple[int, ...]]:
    return one.conversation, tuple(one.token_ids.tolist())


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(-5, 5), epoch=st.integers(0, 3))
def test_an_epoch_loses_and_repeats_nothing(count: int, batch_size: int, seed: int, epoch: int) -> None:
    rows = conversations(count, seed=1)
    made = batches(rows, batch_size, seed)
    steps = range(epoch * made.steps_per_epoch + 1, (epoch + 1) * made.steps_per_epoch + 1)
    seen = [one for step in steps for one in made.batch(step).rows]
    assert Counter(map(identity, seen)) == Counter(map(identity, rows))
    assert sum(made.batch(step).conversations for step in steps) == count
    assert {made.batch(step).epoch for step in steps} == {epoch + 1}


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 5))
def test_all_rows_of_a_conversation_are_in_one_batch(count: int, batch_size: int, seed: int) -> None:
    made = batches(conversations(count), batch_size, seed)
    places: dict[int, set[int]] = {}
    for step in range(1, made.steps_per_epoch + 1):
        for one in made.batch(step).rows:
            places.setdefault(one.conversation, set()).add(step)
    assert all(len(steps) == 1 for steps in places.values())


def test_the_order_of_an_epoch_is_that_of_the_documented_hash() -> None:
    made = batches(conversations(20), 4, seed=7)
    expected = sorted(range(20), key=lambda index: hashlib.sha256(f"7:2:{index}".encode()).hexdigest())
    assert made.order(2).conversation.tolist() == expected
    assert made.order(1).conversation.tolist() != expected


def test_the_last_smaller_batch_is_kept() -> None:
    made = batches(conversations(10), 4)
    assert made.steps_per_epoch == 3
    assert [made.batch(step).conversations for step in range(1, 7)] == [4, 4, 2, 4, 4, 2]


@given(count=st.integers(1, 30), batch_size=st.integers(1, 10), steps=st.integers(0, 60))
def test_the_cursor_says_where_the_next_batch_begins(count: int, batch_size: int, steps: int) -> None:
    made = batches(conversations(count), batch_size)
    cursor = made.cursor(steps)
    order = made.order(cursor.epoch).conversation.tolist()
    expected = set(order[cursor.position : cursor.position + batch_size])
    assert {one.conversation for one in made.batch(steps + 1).rows} == expected
    assert made.batch(steps + 1).epoch == cursor.epoch


def rows_of(falling: Iterable[int]) -> list[Row]:
    return longest_first([row(n, range(length), [1.0] * (length - 1)) for n, length in enumerate(falling)])


@given(lengths=lengths, budget=st.integers(1, 200), few_shapes=st.booleans())
def test_calls_keep_every_row_in_order_and_within_the_budget(lengths: list[int], budget: int, few_shapes: bool) -> None:
    rows = rows_of(lengths)
    cut = list(calls(rows, budget, few_shapes=few_shapes))
    assert [one.conversation for call in cut for one in call] == [one.conversation for one in rows]
    for call in cut:
        longest = call[0].length - 1
        assert len(call) == 1 or len(call) * (filled(longest) if few_shapes else longest) <= budget


FEW_COUNTS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]


@given(lengths=lengths, budget=st.integers(1, 400))
def test_calls_have_few_numbers_of_rows_or_all(lengths: list[int], budget: int) -> None:
    cut = list(calls(rows_of(lengths), budget))
    assert all(len(call) in FEW_COUNTS for call in cut) or len(cut) == 1


@given(
    lengths=st.lists(st.integers(2, 9_000), min_size=1, max_size=7),
    budget=st.integers(1_000, 20_000),
    few_shapes=st.booleans(),
)
def test_no_other_cut_within_the_budget_is_cheaper(lengths: list[int], budget: int, few_shapes: bool) -> None:
    def padded(call: Sequence[int]) -> int:
        return len(call) * (filled(call[0] - 1) if few_shapes else call[0] - 1)

    def cost(cut: Iterable[Sequence[int]]) -> int:
        return sum(CALL_OVERHEAD + padded(call) for call in cut)

    def allowed(call: Sequence[int]) -> bool:
        few = not few_shapes or len(call) in {*FEW_COUNTS, len(lengths)}
        return few and (len(call) == 1 or padded(call) <= budget)

    falling = sorted(lengths, reverse=True)
    cheapest = cost([one.length for one in call] for call in calls(rows_of(lengths), budget, few_shapes=few_shapes))
    for inner in itertools.chain.from_iterable(
        itertools.combinations(range(1, len(falling)), count) for count in range(len(falling))
    ):
        cut = [falling[begin:end] for begin, end in itertools.pairwise([0, *inner, len(falling)])]
        if all(map(allowed, cut)):
            assert cheapest <= cost(cut)


def test_short_rows_are_not_padded_to_the_length_of_long_ones() -> None:
    rows = rows_of([2000] * 4 + [100] * 20)
    assert [len(call) for call in calls(rows, 16_384, few_shapes=False)] == [4, 20]
    assert [len(call) for call in calls(rows, 16_384)] == [4, 4, 16]  # 20 is none of the few numbers of rows


@given(count=st.integers(1, 60))
def test_a_batch_that_fits_is_one_call_whatever_its_number_of_rows(count: int) -> None:
    assert [len(call) for call in calls(rows_of([20] * count), 16_384)] == [count]


@given(targets=st.integers(1, 1 << 20))
def test_rows_are_filled_up_to_few_lengths_at_most_an_eighth_longer(targets: int) -> None:
    assert targets <= filled(targets) <= targets * 9 / 8
    assert filled(filled(targets)) == filled(targets)
    assert filled(targets) <= filled(targets + 1)


def test_there_are_eight_lengths_between_powers_of_two() -> None:
    assert sorted({filled(targets) for targets in range(513, 1025)}) == list(range(576, 1025, 64))
    assert [filled(targets) for targets in range(1, 17)] == list(range(1, 17))


@given(lengths=lengths)
def test_rows_of_a_batch_come_longest_first(lengths: list[int]) -> None:
    rows = longest_first([row(n, range(length), [1.0] * (length - 1)) for n, length in enumerate(lengths)])
    assert [one.length for one in rows] == sorted(lengths, reverse=True)


def test_calls_grow_from_a_safe_start_and_stay_below_the_ceiling() -> None:
    assert call_tokens(0, MOST_CALL_TOKENS) == call_tokens(STEPS_PER_DOUBLING, MOST_CALL_TOKENS) == SAFE_CALL_TOKENS
    assert call_tokens(STEPS_PER_DOUBLING + 1, MOST_CALL_TOKENS) == 2 * SAFE_CALL_TOKENS
    assert call_tokens(10**6, MOST_CALL_TOKENS) == MOST_CALL_TOKENS
    assert call_tokens(1, 100) == call_tokens(10**6, 100) == 100


@given(
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=30).filter(any),
    max_length=st.integers(1, 40),
)
def test_a_shortened_row_keeps_the_front_of_tokens_and_weights(weights: list[float], max_length: int) -> None:
    whole = row(0, range(len(weights) + 1), weights)
    short = shortened(whole, max_length)
    assert short.token_ids.tolist() == whole.token_ids.tolist()[:max_length]
    assert short.target_weights.tolist() == whole.target_weights.tolist()[: max(short.length - 1, 0)]
    assert 0 <= short.target_bytes <= whole.target_bytes


@given(weights=st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30).filter(any))
def test_the_tail_behind_the_last_trained_target_is_cut_without_loss(weights: list[float]) -> None:
    whole = row(0, range(len(weights) + 1), weights)
    cut = without_tail(whole)
    assert cut.target_weights[-1] > 0
    assert cut.length == len(cut.target_weights) + 1
    assert cut.weight_sum == whole.weight_sum
    assert cut.token_ids.tolist() == whole.token_ids.tolist()[: cut.length]


def test_a_row_without_weight_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="conversation 3: a row has no token with weight"):
        without_tail(row(3, [1, 2, 3], [0.0, 0.0]))


class MemoryFile(list):  # type: ignore[type-arg]
    """Rows as a dataset file gives them."""

    @property
    def index(self) -> RowIndex:  # type: ignore[override]  # a list has a method of this name
        return RowIndex(
            np.array([one.conversation for one in self], np.uint32),
            np.array([len(one.token_ids) for one in self], np.uint32),
            np.array([int(one.run_lengths[one.run_values > 0].sum()) for one in self], np.uint32),
        )


class Stored:
    def __init__(self, conversation: int, tokens: list[int], runs: list[tuple[int, float]]) -> None:
        self.conversation = conversation
        self.part = 0
        self.token_ids = np.array(tokens, np.int32)
        self.run_lengths = np.array([length for length, _ in runs], np.uint32)
        self.run_values = np.array([value for _, value in runs], np.float32)
        self.target_bytes = sum(length for length, value in runs if value)


def test_max_length_cuts_on_the_right_and_reports_what_it_took() -> None:
    file = MemoryFile(
        [
            Stored(0, list(range(10)), [(4, 0.0), (5, 1.0)]),  # 10 tokens, cut to 7
            Stored(1, list(range(10)), [(8, 0.0), (1, 1.0)]),  # nothing trained is left
            Stored(2, list(range(5)), [(1, 0.0), (2, 1.0), (1, 0.0)]),  # fits; its tail goes
        ]
    )
    rows, cut = trained_rows(file, 7)
    assert (cut.cut_rows, cut.cut_tokens, cut.emptied_rows) == (2, 6, 1)
    assert [(one.conversation, one.length) for one in rows] == [(0, 7), (2, 4)]
    assert rows.conversation_of.tolist() == [0, 2]
    assert rows[0].target_weights.tolist() == [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert [one.conversation for one in rows[0:2]] == [0, 2]


def test_without_max_length_nothing_is_cut() -> None:
    rows, cut = trained_rows(MemoryFile([Stored(0, [1, 2, 3], [(2, 1.0)])]), None)
    assert (cut.cut_rows, cut.emptied_rows, len(rows)) == (0, 0, 1)


def test_an_emptied_conversation_takes_no_place_in_a_batch() -> None:
    rows = [one for one in conversations(6) if one.conversation != 4]
    made = Batches([Part(rows, [one.conversation for one in rows])], 2, 0)
    assert made.conversations == 5
    assert 4 not in made.order(1).conversation


@given(count=st.integers(1, 30), seed=st.integers(0, 3))
def test_the_probe_is_small_and_always_the_same(count: int, seed: int) -> None:
    rows = conversations(count)
    chosen = probe_rows(rows, seed)
    assert 1 <= len(chosen) <= min(8, len(rows))
    assert [identity(one) for one in chosen] == [identity(one) for one in probe_rows(rows, seed)]


def test_the_probe_fits_in_one_call() -> None:
    rows = [row(n, [1] * 1500, [1.0] * 1499) for n in range(9)]
    chosen = probe_rows(rows, 0)
    assert len(chosen) == 2
    long = probe_rows([row(0, [1] * 9000, [1.0] * 8999)], 0)
    assert [one.length for one in long] == [PROBE_TOKENS]
