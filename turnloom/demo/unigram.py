"""Compute the loss of a model that knows only token frequencies: the baseline beside the demo's NLL.

Add-one smoothing: p(token) = (1 + weight of the token among the trained tokens) / (vocabulary + their total weight).
A token unseen in training thus has a finite loss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unigram_nll(
    train_tokens: NDArray[np.integer],
    train_weights: NDArray[np.floating],
    test_tokens: NDArray[np.integer],
    test_weights: NDArray[np.floating],
    vocabulary: int,
) -> float:
    """Return the mean NLL of the test tokens under frequencies fitted on the train tokens.

    Args:
        train_tokens: targets of the train split, any number of rows end to end; shape (n,).
        train_weights: their target weights; shape (n,). Weight 0 leaves a token out.
        test_tokens: targets of the test split; shape (m,).
        test_weights: their target weights; shape (m,).
        vocabulary: number of token ids; every id is below it.

    Returns:
        Nats per trained token: sum(-log p * weight) / sum(weight), as the trainer counts its own.

    Raises:
        ValueError: nothing in the test split is trained, or a token id is not in the vocabulary.
    """
    total = float(test_weights.sum())
    if total <= 0:
        raise ValueError("test_weights: no token of the test split has weight, so it has no NLL")
    highest = int(max(train_tokens.max(initial=0), test_tokens.max(initial=0)))
    if highest >= vocabulary:
        raise ValueError(f"token id {highest} is not below the vocabulary of {vocabulary}")
    counts = 1 + np.bincount(train_tokens, weights=train_weights, minlength=vocabulary)
    log_probabilities = np.log(counts / counts.sum())
    return float(-(log_probabilities[test_tokens] * test_weights).sum() / total)
