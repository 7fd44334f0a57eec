import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from turnloom.demo.unigram import unigram_nll

TOKENS = arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 9))


def test_a_hand_counted_example() -> None:
    # three trained tokens 0 0 1 of a vocabulary of 2: p = 3/5 and 2/5
    nll = unigram_nll(np.array([0, 0, 1, 1]), np.array([1.0, 1, 1, 0]), np.array([0, 1, 1]), np.array([1.0, 1, 0]), 2)
    assert nll == pytest.approx(-(math.log(3 / 5) + math.log(2 / 5)) / 2)


@given(train=TOKENS, test=TOKENS)
def test_it_is_the_weighted_mean_over_a_true_distribution(train: np.ndarray, test: np.ndarray) -> None:
    one_by_one = [unigram_nll(train, np.ones(len(train)), np.array([token]), np.ones(1), 10) for token in range(10)]
    assert sum(math.exp(-nll) for nll in one_by_one) == pytest.approx(1)
    expected = np.mean([one_by_one[token] for token in test])
    assert unigram_nll(train, np.ones(len(train)), test, np.ones(len(test)), 10) == pytest.approx(expected)


@given(tokens=TOKENS)
def test_tokens_without_weight_count_nowhere(tokens: np.ndarray) -> None:
    noisy = np.concatenate([tokens, np.arange(10)])
    weights = np.concatenate([np.ones(len(tokens)), np.zeros(10)])
    assert unigram_nll(noisy, weights, noisy, weights, 10) == pytest.approx(
        unigram_nll(tokens, np.ones(len(tokens)), tokens, np.ones(len(tokens)), 10)
    )


def test_a_test_split_without_trained_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="no token of the test split has weight"):
        unigram_nll(np.array([1]), np.ones(1), np.array([1]), np.zeros(1), 2)


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="token id 7 is not below the vocabulary of 4"):
        unigram_nll(np.array([1]), np.ones(1), np.array([7]), np.ones(1), 4)
