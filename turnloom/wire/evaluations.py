"""One evaluation by example, as numpy columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from turnloom.v1 import training_pb2


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The losses of a test dataset's examples, in its order; NLL = nll_sum.sum() / weight_sum.sum()."""

    step: int  #: that was evaluated
    conversation: NDArray[np.uint32]  #: [examples] position of the example's conversation in the dataset
    nll_sum: NDArray[np.float32]  #: [examples] nats, sum of -logprob * weight
    weight_sum: NDArray[np.float32]  #: [examples] > 0

    @classmethod
    def read(cls, message: training_pb2.GetEvaluationResponse) -> Evaluation:
        """Read the columns of an answer without copying them."""
        return cls(
            message.step,
            np.frombuffer(message.conversation, "<u4"),
            np.frombuffer(message.nll_sum, "<f4"),
            np.frombuffer(message.weight_sum, "<f4"),
        )
