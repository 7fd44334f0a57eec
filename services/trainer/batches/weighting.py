"""The objective of a step: the weights as sent to the server. They never affect the reported NLL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.store.records import WeightNormalization
from services.trainer.batches.rows import Row

Weights = NDArray[np.float32]  #: [n - 1] of one row


def _as_they_are(rows: Sequence[Row]) -> list[Weights]:
    return [row.target_weights for row in rows]


def _per_example(rows: Sequence[Row]) -> list[Weights]:
    return [(row.target_weights / row.weight_sum).astype(np.float32) for row in rows]


def _per_batch(rows: Sequence[Row]) -> list[Weights]:
    total = sum(row.weight_sum for row in rows)
    return [(row.target_weights / total).astype(np.float32) for row in rows]


#: All rows of a step (not of a call) -> the weights to send, row by row.
NORMALIZATION: Final[dict[WeightNormalization, Callable[[Sequence[Row]], list[Weights]]]] = {
    WeightNormalization.NONE: _as_they_are,
    WeightNormalization.PER_EXAMPLE: _per_example,
    WeightNormalization.PER_BATCH: _per_batch,
}


def weighted_nll(logprobs: NDArray[np.float64] | NDArray[np.float32], weights: Weights) -> float:
    """Sum -logprob * weight over one row, in nats and in double precision. NaN stays NaN.

    Positions of weight 0 are left out before the product. A server may say -inf there, and 0 * inf is not a number.
    """
    trained = weights != 0
    return -float(np.dot(np.asarray(logprobs, np.float64)[trained], weights[trained].astype(np.float64)))
