"""The order of a mixture: shares, passes, and what does not depend on what."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.store.records import MixSums
from services.store.shards.shares import shares
from services.trainer.batches.batching import Batches
from services.trainer.batches.mixing import Part, sums_by_part
from tests.support.trainer_parts import conversations, row

sizes = st.lists(st.integers(1, 12), min_size=1, max_size=5)
weight = st.floats(1e-3, 1e3)


def mixture(sizes: Sequence[int], weights: Sequence[float], batch_size: int = 3, seed: int = 0) -> Batches:
    parts = []
    for number, (size, one) in enumerate(zip(sizes, weights, strict=True)):
        rows = conversations(size, seed=number)
        parts.append(Part(rows, [row.conversation for row in rows], one))
    return Batches(parts, batch_size, seed)


def with_weights(sizes: Sequence[int]) -> st.SearchStrategy[list[float]]:
    return st.lists(weight, min_size=len(sizes), max_size=len(sizes))


@given(st.lists(weight, min_size=1, max_size=16), st.integers(0, 10_000))
def test_shares_add_up_and_are_within_one_of_the_weights(weights: list[float], count: int) -> None:
    found = shares(weights, count)
    assert sum(found) == count
    total = sum(map(Fraction, weights))
    assert all(abs(share - Fraction(one) * count / total) < 1 for share, one in zip(found, weights, strict=True))


def test_equal_remainders_go_to_the_first() -> None:
    assert shares([1, 1, 1], 8) == [3, 3, 2]
    assert shares([0.7, 0.3], 10) == [7, 3]


@given(sizes=sizes, data=st.data(), epoch=st.integers(1, 4))
def test_every_stretch_of_an_epoch_has_the_datasets_in_their_shares(
    sizes: list[int], data: st.DataObject, epoch: int
) -> None:
    weights = data.draw(with_weights(sizes))
    made = mixture(sizes, weights)
    counts = shares(weights, sum(sizes))
    order = made.order(epoch)
    assert [int(np.count_nonzero(order.part == place)) for place in range(len(sizes))] == counts
    for place, count in enumerate(counts):
        seen = np.cumsum(order.part == place)
        exact = np.arange(1, len(order) + 1) * count / len(order)
        assert np.all(np.abs(seen - exact) <= len(sizes) / 2 + 1e-9)


@given(sizes=sizes, data=st.data(), seed=st.integers(-3, 3))
def test_a_dataset_is_read_pass_after_pass_in_an_order_of_its_own(
    sizes: list[int], data: st.DataObject, seed: int
) -> None:
    made = mixture(sizes, data.draw(with_weights(sizes)), seed=seed)
    for place, size in enumerate(sizes):
        drawn = [
            int(conversation)
            for order in (made.order(epoch) for epoch in range(1, 4))
            for conversation in order.conversation[order.part == place]
        ]
        expected = [
            index
            for number in range(1, len(drawn) // size + 2)
            for index in sorted(range(size), key=lambda one: hashlib.sha256(f"{seed}:{number}:{one}".encode()).digest())
        ]
        assert drawn == expected[: len(drawn)]


@given(size=st.integers(1, 40), weight=weight, epoch=st.integers(1, 4), seed=st.integers(0, 5))
def test_one_dataset_has_its_passes_as_epochs_whatever_its_weight(
    size: int, weight: float, epoch: int, seed: int
) -> None:
    order = mixture([size], [weight], seed=seed).order(epoch).conversation.tolist()
    assert order == sorted(range(size), key=lambda one: hashlib.sha256(f"{seed}:{epoch}:{one}".encode()).digest())


@given(sizes=sizes, data=st.data(), batch_size=st.integers(1, 9))
def test_a_step_does_not_depend_on_the_steps_before_and_keeps_conversations_together(
    sizes: list[int], data: st.DataObject, batch_size: int
) -> None:
    weights = data.draw(with_weights(sizes))
    made = mixture(sizes, weights, batch_size)
    steps = list(range(1, 2 * made.steps_per_epoch + 1))
    there = {step: made.batch(step) for step in steps}
    for step in data.draw(st.permutations(steps)):
        one = mixture(sizes, weights, batch_size).batch(step)
        assert [(row.part, row.conversation) for row in one.rows] == [
            (row.part, row.conversation) for row in there[step].rows
        ]
        rows_of = Counter((row.part, row.conversation) for row in one.rows)
        for (place, conversation), count in rows_of.items():
            members = len(made.parts[place].members[conversation])
            assert count % members == 0  # whole conversations; a small dataset may come round within a step
        assert sum(one.by_part) == one.conversations
        assert all(
            one.by_part[place] == sum(n // len(made.parts[p].members[c]) for (p, c), n in rows_of.items() if p == place)
            for place in range(len(sizes))
        )


@given(sizes=sizes, data=st.data(), factor=st.sampled_from([0.5, 2.0, 1024.0]))
def test_only_the_ratio_of_weights_counts(sizes: list[int], data: st.DataObject, factor: float) -> None:
    weights = data.draw(with_weights(sizes))
    one, other = mixture(sizes, weights), mixture(sizes, [factor * weight for weight in weights])
    assert np.array_equal(one.order(2).part, other.order(2).part)
    assert np.array_equal(one.order(2).conversation, other.order(2).conversation)


def test_the_documented_example() -> None:
    made = mixture([6, 4], [0.7, 0.3], batch_size=5)
    assert "".join("ab"[place] for place in made.order(1).part) == "abaaabaaba"
    assert (made.conversations, made.steps_per_epoch) == (10, 2)
    assert [made.batch(step).by_part for step in (1, 2)] == [(4, 1), (3, 2)]


def test_the_sums_of_a_step_are_those_of_its_rows_by_dataset() -> None:
    def of(part: int, tokens: int) -> object:
        made = row(0, range(tokens), [1.0] * (tokens - 1))
        return type(made)(made.conversation, made.token_ids, made.target_weights, made.target_bytes, part)

    rows = [of(0, 4), of(1, 3), of(0, 2)]
    found = sums_by_part((2, 1, 0), rows, [(0, 1.5), (1, 0.25), (0, 0.5)])  # type: ignore[arg-type]
    assert found == (MixSums(2, 6, 2.0, 4.0), MixSums(1, 3, 0.25, 2.0), MixSums())


@pytest.mark.parametrize("count", [1, 7])
def test_a_dataset_without_a_share_is_not_read(count: int) -> None:
    made = mixture([count, count], [1.0, 1e-3])
    assert shares([1.0, 1e-3], 2 * count) == [2 * count, 0]
    assert set(made.order(1).part.tolist()) == {0}
