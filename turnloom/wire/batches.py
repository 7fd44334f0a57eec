"""Rows of a TokenBatch as numpy views: token ids and their aligned target weights.

Row r has N tokens and N - 1 targets: `target_weights[t]` weighs the prediction of `token_ids[t + 1]`. Model input is
`token_ids[:-1]`, targets are `token_ids[1:]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from turnloom.errors import DamagedDownload
from turnloom.v1 import types_pb2

Int32: TypeAlias = NDArray[np.int32]
Int64: TypeAlias = NDArray[np.int64]
Float32: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Row:
    """One example."""

    token_ids: Int32  #: [N], a read-only view of the received bytes
    target_weights: Float32  #: [N - 1], weight of predicting token_ids[t + 1]
    conversation_index: int  #: position of its conversation in the request or dataset
    part: int  #: 0, 1, ... where one conversation gives several examples

    @property
    def input_ids(self) -> Int32:
        """Model inputs, shape [N - 1]."""
        return self.token_ids[:-1]

    @property
    def target_ids(self) -> Int32:
        """Prediction targets, shape [N - 1]."""
        return self.token_ids[1:]


class Batch(Sequence[Row]):
    """A received TokenBatch; its rows are views, so no token is copied."""

    def __init__(self, message: types_pb2.TokenBatch) -> None:
        """Split the message into its columns.

        Raises:
            DamagedDownload: the columns don't fit each other.
        """
        self.message = message
        self.token_ids: Int32 = np.frombuffer(message.token_ids, dtype="<i4")  #: [tokens], rows end to end
        self.row_lengths: Int64 = np.array(message.row_lengths, dtype=np.int64)  #: [rows]
        runs: Int64 = np.array(message.weight_run_lengths, dtype=np.int64)
        values: Float32 = np.array(message.weight_run_values, dtype=np.float32)
        rows = len(self.row_lengths)
        fits = (
            len(self.token_ids) == self.row_lengths.sum()
            and len(runs) == len(values) == sum(message.weight_runs_per_row)
            and rows == len(message.weight_runs_per_row) == len(message.conversation_index) == len(message.part)
            and runs.sum() == self.row_lengths.sum() - rows
        )
        if not fits:
            raise DamagedDownload(
                "A batch came whose columns don't fit each other.", hint="Compare versions: `turnloom doctor`."
            )
        self.target_weights: Float32 = np.repeat(values, runs)  #: [tokens - rows], rows end to end
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.row_lengths)])

    def __len__(self) -> int:
        return len(self.row_lengths)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # slices of rows have no use here
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        start, end = int(self._starts[index]), int(self._starts[index + 1])
        return Row(
            token_ids=self.token_ids[start:end],
            target_weights=self.target_weights[start - index : end - index - 1],
            conversation_index=self.message.conversation_index[index],
            part=self.message.part[index],
        )

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    @property
    def loss_tokens(self) -> int:
        """Number of targets with weight > 0."""
        return int(np.count_nonzero(self.target_weights))

    @property
    def weight_sum(self) -> float:
        """Sum of all target weights."""
        return float(self.target_weights.sum(dtype=np.float64))
