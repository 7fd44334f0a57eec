from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from turnloom.masks.domain.example import PreprocessedConversation, TokenizedExample
from turnloom.masks.domain.length_statistics import EDGES, Statistics


def example(tokens: int, trained: int, cut: int = 0) -> TokenizedExample:
    runs = ((tokens - 1 - trained, 0.0), (trained, 0.5))
    return TokenizedExample(
        np.zeros(tokens, np.int32), runs, target_bytes=3, truncated_tokens=cut, truncated_loss_tokens=cut
    )


def test_totals_count_examples_tokens_and_what_was_cut() -> None:
    statistics = Statistics()
    statistics.add(PreprocessedConversation([example(10, 4), example(20, 5, cut=2)]))
    statistics.add(PreprocessedConversation([example(40, 6)]))
    summary = statistics.summary()
    assert (summary.conversations, summary.examples, summary.tokens, summary.loss_tokens) == (2, 3, 70, 15)
    assert (summary.truncated_examples, summary.truncated_tokens, summary.truncated_loss_tokens) == (1, 2, 2)
    assert summary.target_bytes == 9
    assert summary.lengths.counts[:3] == [1, 1, 1]
    assert (summary.lengths.minimum, summary.lengths.maximum, summary.lengths.p50) == (10, 40, 20)


def test_nothing_added_gives_zeros() -> None:
    summary = Statistics().summary()
    assert summary.lengths.mean == summary.lengths.p95 == summary.tokens == 0


@given(st.lists(st.integers(2, 300_000), min_size=1, max_size=30))
def test_each_example_is_in_one_bucket_and_quantiles_are_sizes_that_occur(sizes: list[int]) -> None:
    statistics = Statistics()
    for size in sizes:
        statistics.add(PreprocessedConversation([TokenizedExample(np.zeros(size, np.int32), ((size - 1, 1.0),))]))
    lengths = statistics.summary().lengths
    assert sum(lengths.counts) == len(sizes)
    bounds = [0, *EDGES, 10**9]
    assert lengths.counts == [sum(low <= size < high for size in sizes) for low, high in itertools.pairwise(bounds)]
    assert lengths.p50 == sorted(sizes)[(len(sizes) + 1) // 2 - 1]
    assert lengths.p95 in sizes
