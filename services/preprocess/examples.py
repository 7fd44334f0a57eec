"""What preprocessing yields: token ids with aligned target weights, and what must be said about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Runs of equal target weight: (number of targets, weight) in order.
WeightRuns = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """One training row.

    `token_ids` has N entries, `weight_runs` cover N - 1 targets: target t is the prediction of `token_ids[t + 1]`.
    """

    token_ids: NDArray[np.int32]  #: shape (N,), N >= 2
    weight_runs: WeightRuns  #: lengths sum to N - 1
    part: int = 0  #: 0.. when one conversation gives several examples
    target_bytes: int = 0  #: UTF-8 bytes of the trained text
    truncated_tokens: int = 0  #: tokens cut away by max_length
    truncated_loss_tokens: int = 0  #: of these, how many had weight > 0

    def target_weights(self) -> NDArray[np.float32]:
        """Expand the runs: shape (N - 1,), float32."""
        lengths = [length for length, _ in self.weight_runs]
        return np.repeat(np.array([weight for _, weight in self.weight_runs], dtype=np.float32), lengths)


@dataclass(frozen=True, slots=True)
class ControlTokenSpan:
    """Text of a message that spells a control token and was encoded as ordinary text."""

    message_index: int
    offset: int  #: characters from the start of the rendered text
    text: str


@dataclass(frozen=True, slots=True)
class Preprocessed:
    """All that one conversation gives: at least one example, warnings a person should read."""

    examples: Sequence[TokenizedExample]
    warnings: Sequence[str] = ()
    escaped: Sequence[ControlTokenSpan] = ()
