"""The result of preprocessing: token ids with aligned target weights, and warnings about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: Runs of equal target weight: (number of targets, weight) in order.
WeightRuns = tuple[tuple[int, float], ...]


#: Tokens [start, end) that share a weight > 0, in order and disjoint.
TokenSpan: TypeAlias = "tuple[int, int, float]"


class WeightedTokens(NamedTuple):
    """One row of tokens with the weights of its own tokens, not yet shifted to targets."""

    token_ids: NDArray[np.int32]  #: shape (N,)
    spans: Sequence[TokenSpan]
    first: int = 0  #: how many tokens were cut before token_ids[0]

    def loss_tokens(self) -> int:
        """Count the targets that carry weight; the first token is never a target."""
        return sum([end - max(start, 1) for start, end, _ in self.spans if end > 1])


class TokenizedExample(NamedTuple):
    """One training row; a tuple, as all that is made per example.

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


class PreprocessedConversation(NamedTuple):
    """The result of one conversation: at least one example, and warnings a person should read."""

    examples: Sequence[TokenizedExample]
    warnings: Sequence[str] = ()
    escaped: Sequence[ControlTokenSpan] = ()
    unchecked: int = 0  #: examples whose ids could not be compared with the text
