"""The interface between the trainer and a training server. TuFT implements it (tuft.py).

Operations are submitted in order and run in order; each returns at once with a Pending. Every failure is a
BackendError (errors.py). Gradients of forward_backward calls add up until optim_step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.trainer.batches.rows import Row
from services.trainer.batches.weighting import Weights

Logprobs = NDArray[np.float32]  #: [n - 1] of one row, aligned with its targets
Result_co = TypeVar("Result_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Adapter:
    """What is trained."""

    model: str  #: the server's name of the base model
    rank: int  #: >= 1
    train_mlp: bool
    train_attn: bool
    train_unembed: bool


@dataclass(frozen=True, slots=True)
class Adam:
    """One optimizer step."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float  #: decoupled
    grad_clip_norm: float  #: 0: no clipping


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is drawn."""

    max_tokens: int  #: >= 1, the stop token included
    temperature: float  #: >= 0; 0: the likeliest token each time
    top_p: float  #: > 0 and <= 1
    seed: int | None  #: None: another reply each time
    stop: tuple[int, ...]  #: token ids that end the reply


@dataclass(frozen=True, slots=True)
class Sampled:
    """A reply."""

    token_ids: tuple[int, ...]  #: the stop token, where there is one, is the last
    finish_reason: str  #: "stop" or "length"


class Pending(Protocol[Result_co]):
    """An operation under way."""

    def result(self) -> Result_co:
        """Wait for the result, within the operation's deadline. Raises BackendError."""
        ...


class Backend(Protocol):
    """One adapter under training on one server."""

    @property
    def run_id(self) -> str:
        """Return the server's name of this adapter's run."""
        ...

    def forward_backward(self, rows: Sequence[Row], weights: Sequence[Weights]) -> Pending[Sequence[Logprobs]]:
        """Add the gradient of sum(-logprob * weight) over all rows; give the logprobs row by row."""
        ...

    def forward(self, rows: Sequence[Row]) -> Pending[Sequence[Logprobs]]:
        """Compute the logprobs row by row, without a gradient."""
        ...

    def optim_step(self, adam: Adam) -> Pending[None]:
        """Apply the gradients and clear them."""
        ...

    def save_state(self, name: str) -> Pending[str]:
        """Save weights and optimizer under `name`; give the path that load takes."""
        ...

    def save_adapter(self, name: str) -> Pending[str]:
        """Save the weights alone, as they are served; give their path."""
        ...

    def load(self, path: str, *, optimizer: bool) -> Pending[None]:
        """Load saved weights, and the optimizer's state if asked."""
        ...

    def check_alive(self) -> None:
        """Raise BackendError SERVER_RESTARTED if the server has been away since the client was made."""
        ...

    def close(self) -> None:
        """Let go of the server without waiting; the adapter stays there."""
        ...
