"""One training example as the trainer holds it, and how `max_length` cuts it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens with the weight of predicting each next one; the shift is already done (see the dataset contract)."""

    conversation: int  #: position of its conversation in the dataset
    token_ids: NDArray[np.int32]  #: [n], n >= 2
    target_weights: NDArray[np.float32]  #: [n - 1]; entry t weighs the prediction of token_ids[t + 1]
    target_bytes: int  #: UTF-8 bytes of the trained text
    part: int = 0  #: place of its dataset in the job's mixture; 0 where there is one dataset

    @property
    def length(self) -> int:
        """Return the row's number of tokens."""
        return len(self.token_ids)

    @property
    def weight_sum(self) -> float:
        """Return the sum of the weights, in double precision."""
        return float(self.target_weights.sum(dtype=np.float64))

    @property
    def loss_tokens(self) -> int:
        """Return the number of targets with weight > 0."""
        return int(np.count_nonzero(self.target_weights))


def shortened(row: Row, max_length: int) -> Row:
    """Cut a row to its first `max_length` tokens, with their weights and bytes.

    The dataset doesn't say which bytes belong to which token; the bytes are taken in proportion to the weight kept.
    """
    if row.length <= max_length:
        return row
    weights = row.target_weights[: max(max_length - 1, 0)]
    kept = float(weights.sum(dtype=np.float64))
    total = row.weight_sum
    return replace(
        row,
        token_ids=row.token_ids[:max_length],
        target_weights=weights,
        target_bytes=round(row.target_bytes * kept / total) if total else 0,
    )


def without_tail(row: Row) -> Row:
    """Cut the row after its last trained target: the rest costs compute and has no effect on the loss.

    Raises:
        ValueError: the row has no trained target.
    """
    if len(row.target_weights) and row.target_weights[-1]:
        return row
    trained = np.flatnonzero(row.target_weights)
    if not len(trained):
        raise ValueError(f"conversation {row.conversation}: a row has no token with weight")
    keep = int(trained[-1]) + 1  # targets kept
    return replace(row, token_ids=row.token_ids[: keep + 1], target_weights=row.target_weights[:keep])
