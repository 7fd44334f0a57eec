"""One forward and backward pass over packed rows: decoder, head, loss, and the client's part of the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tuft.loss_fn import get_loss_fn

from services.tuft import head
from services.tuft.adapters import Layout, Linear
from services.tuft.errors import Odd
from services.tuft.graphs import Decoding
from services.tuft.packing import PackedPass, Row, pack

Value = TypeVar("Value")

#: Losses of TuFT that give the same whether rows are padded or not: what they multiply padding with is 0.
LOSSES: Final = ("cross_entropy", "importance_sampling", "ppo", "cispo", "trinity_ppo")
#: Losses that count the positions with which TuFT fills rows up; only rows of one length give the same.
PADDING_COUNTS: Final = ("dro",)


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss to compute from the log-probabilities."""

    name: str  #: of TuFT
    config: Mapping[str, float]

    @property
    def scale(self) -> float:
        """Return the scale of the logits."""
        return 1.0 / float(self.config.get("temperature", 1.0))


class Reading:
    """Values on their way from the GPU to the host.

    They come behind what was launched so far, not behind what comes next.
    """

    def __init__(self, values: Tensor) -> None:
        """Start the copy of values of any shape."""
        self._values = values
        self._copied: Any = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def arrived(self) -> bool:
        """Return whether the values are there."""
        return self._copied is None or bool(self._copied.query())

    def result(self) -> Tensor:
        """Wait for the values."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a pass, which the GPU may still be working on."""

    rows: tuple[int, ...]  #: numbers of the rows
    lengths: tuple[int, ...]  #: of the same
    found: Reading  #: fp32: a log-probability for each target, row by row, then the loss
    given: Mapping[str, float] | None  #: metrics of TuFT's loss; None: the loss is all there is

    def logprobs(self) -> tuple[Tensor, ...]:
        """Wait for the log-probabilities: fp32 on the host, one a target, row by row."""
        return torch.split(self.found.result()[:-1], list(self.lengths))

    def metrics(self) -> dict[str, float]:
        """Wait for the metrics as TuFT's loss gives them."""
        return {"loss:sum": float(self.found.result()[-1])} if self.given is None else dict(self.given)


@dataclass(frozen=True, slots=True)
class Started:
    """A pass whose forward part is launched."""

    answer: Answer
    backward: Callable[[], list[Tensor]]  #: launches the backward part, once; gives gradients of Layout.masters


def check(loss: Loss, rows: Sequence[Row]) -> None:
    """Refuse requests that only TuFT's own code answers as TuFT does.

    Raises:
        Odd: with the reason.
    """
    temperature = loss.config.get("temperature", 1.0)
    if not isinstance(temperature, int | float) or not 0.0 < temperature < float("inf"):
        raise Odd("a temperature that is not above 0")
    if loss.name in PADDING_COUNTS and len({row.length for row in rows}) > 1:
        raise Odd(f"{loss.name} over rows of several lengths, whose padding TuFT counts")
    if loss.name not in LOSSES + PADDING_COUNTS:
        raise Odd(f"the loss {loss.name}")
    if loss.name == "cross_entropy" and any("weights" not in row.inputs for row in rows):
        raise Odd("rows without weights")


def start(
    decoder: Decoding, layout: Layout, rows: Sequence[Row], numbers: Sequence[int], loss: Loss, *, backward: bool,
    recompute: bool = False,
) -> Started:  # fmt: skip
    """Launch the forward pass of the rows with these numbers; nothing waits for the GPU.

    Args:
        decoder: the model.
        layout: the adapter.
        rows: of the whole request.
        numbers: the rows of this pass.
        loss: what to compute.
        backward: a backward pass follows.
        recompute: as Decoder.
    """
    packed = pack(rows, numbers)
    device = layout.places[0].weight.device
    tokens, positions, targets, starts = (
        _moved(one, device) for one in (packed.tokens, packed.positions, packed.targets, packed.starts)
    )
    operands = layout.operands(decoder.dtype, gradient=backward)
    unembedding = operands.linears()[-1]
    with nullcontext() if backward else torch.no_grad():
        hidden = decoder(
            tokens, positions, starts, max(packed.lengths), operands, gradient=backward, recompute=recompute
        )
        if loss.name == "cross_entropy":
            value, logprobs = _cross_entropy(hidden, targets, unembedding, rows, packed, loss.scale, backward=backward)
            metrics = None
        else:
            logprobs = head.target_logprobs(hidden, unembedding, targets, loss.scale)
            value, metrics = _any_loss(logprobs, rows, packed, loss)
        found = Reading(torch.cat((logprobs.detach(), value.detach().float().reshape(1))))

    def launch() -> list[Tensor]:
        if value.requires_grad:
            value.backward()  # type: ignore[no-untyped-call]
        return operands.gradients()

    return Started(Answer(packed.rows, packed.lengths, found, metrics), launch)


def _cross_entropy(
    hidden: Tensor, targets: Tensor, linear: Linear, rows: Sequence[Row], packed: PackedPass, scale: float, *,
    backward: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute loss and log-probabilities of all targets; only those with a weight go through the backward pass."""
    weights = torch.cat([rows[number].inputs["weights"] for number in packed.rows]).float()
    if not backward:
        logprobs = head.target_logprobs(hidden, linear, targets, scale)
        return -(logprobs * _moved(weights, hidden.device)).sum(), logprobs
    trained = weights != 0
    chosen, others = (_moved(which.nonzero()[:, 0], hidden.device) for which in (trained, ~trained))
    logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    with torch.no_grad():
        logprobs[others] = head.target_logprobs(hidden.index_select(0, others), linear, targets[others], scale)
    loss, of_trained = head.cross_entropy(
        hidden.index_select(0, chosen), linear, targets[chosen], _moved(weights[trained], hidden.device), scale
    )
    logprobs[chosen] = of_trained
    return loss, logprobs


def _any_loss(logprobs: Tensor, rows: Sequence[Row], packed: PackedPass, loss: Loss) -> tuple[Tensor, dict[str, float]]:
    """Call TuFT's own loss function on the shape that it expects: [rows, longest], padded with zeros.

    Raises:
        Odd: the function refuses; TuFT then says so in its own way.
    """
    lengths = list(packed.lengths)
    names = rows[packed.rows[0]].inputs
    inputs = {
        name: _moved(
            pad_sequence([rows[number].inputs[name] for number in packed.rows], batch_first=True), logprobs.device
        )
        for name in names
    }
    inputs["target_logprobs"] = pad_sequence(list(torch.split(logprobs, lengths)), batch_first=True)
    try:
        value, metrics = get_loss_fn(loss.name)(inputs, dict(loss.config))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise Odd(f"{loss.name} refuses its inputs") from error
    return value, metrics


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the GPU without waiting for it."""
    if device.type != "cuda":
        return tensor
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)
