"""Log-probabilities of the targets, in fp32, with never more than CHUNK rows of logits in memory.

Two ways to the gradient. Cross entropy knows its weights beforehand, so the chunk's gradient is taken while its logits
are there. Any other loss gets log-probabilities, and the logits are computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from services.tuft.adapters import Linear, apply, inner, twice

try:
    from services.tuft.head_kernel import read_logits as _read_logits_on_gpu
except ImportError:  # no Triton: a CPU build of torch
    _read_logits_on_gpu = None  # type: ignore[assignment]

CHUNK = 2048  #: rows of logits at once: 0.6 GB in bf16 with 152,000 tokens


def read_logits(
    logits: Tensor, targets: Tensor, logprobs: Tensor, normalizers: Tensor, factors: Tensor | None, *, normalized: bool
) -> None:
    """Take the targets' log-probabilities from logits, and turn logits into their gradient.

    Args:
        logits: [n, vocabulary]; overwritten by the gradient where there are factors.
        targets: int64 [n].
        logprobs: fp32 [n], written unless `normalized`.
        normalizers: fp32 [n], the rows' log-sum-exp: written, or read when `normalized`.
        factors: fp32 [n], the loss's gradient by log-probability; None: no gradient.
        normalized: `logprobs` and `normalizers` are known already.
    """
    if logits.is_cuda:
        _read_logits_on_gpu(logits, targets, logprobs, normalizers, factors, normalized=normalized)
        return
    values = logits.float()
    if not normalized:
        normalizers.copy_(values.logsumexp(-1))
        logprobs.copy_(values.gather(1, targets[:, None])[:, 0] - normalizers)
    if factors is not None:
        gradient = torch.exp(values - normalizers[:, None]) * -factors[:, None]
        gradient.scatter_add_(1, targets[:, None], factors[:, None])
        logits.copy_(gradient)


@dataclass(slots=True)
class _Gradients:
    """What the head adds up over its chunks."""

    hidden: Tensor  #: [n, width]
    a: Tensor | None  #: fp32, as the operand; None: the head has no adapter
    b: Tensor | None  #: fp32, as the operand

    @classmethod
    def empty(cls, hidden: Tensor, head: Linear) -> _Gradients:
        """Make empty gradients for these rows and this head."""
        a, b = (None if one is None else torch.zeros_like(one, dtype=torch.float32) for one in head[2:])
        return cls(torch.empty_like(hidden), a, b)

    def add(self, begin: int, end: int, hidden: Tensor, logits: Tensor, head: Linear) -> None:
        """Add the chunk whose logits have become their gradient."""
        weight, _, a, b = head
        into = self.hidden[begin:end]
        torch.mm(logits, weight, out=into)
        if a is None or b is None or self.a is None or self.b is None:
            return
        self.b += twice(inner(hidden, a)).t() @ logits
        by_inner = inner(logits, b)  # hi and lo of B together
        into.addmm_(twice(by_inner), a)
        self.a += twice(by_inner).t() @ hidden


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(count, begin + CHUNK)) for begin in range(0, count, CHUNK))


def _logits(hidden: Tensor, head: Linear, scale: float) -> Tensor:
    logits = apply(hidden, head)
    return logits if scale == 1.0 else logits.mul_(scale)


class _CrossEntropy(torch.autograd.Function):
    """Sum of -logprob * weight; the gradient is ready when the loss is."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, a: Tensor | None, b: Tensor | None, head: Linear, targets: Tensor, weights: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        normalizers = torch.empty_like(logprobs)
        factors = -weights.float() * scale
        gradients = _Gradients.empty(hidden, head)
        for begin, end in _chunks(len(hidden)):
            part = hidden[begin:end]
            logits = _logits(part, head, scale)
            read_logits(
                logits, targets[begin:end], logprobs[begin:end], normalizers[begin:end], factors[begin:end],
                normalized=False,
            )  # fmt: skip
            gradients.add(begin, end, part, logits, head)
            del logits
        ctx.gradients = gradients
        ctx.mark_non_differentiable(logprobs)
        return -(logprobs * weights).sum(), logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        found = cast(_Gradients, ctx.gradients)
        ctx.gradients = None
        by_a, by_b = (None if one is None else one * loss for one in (found.a, found.b))
        return found.hidden.mul_(loss), by_a, by_b, None, None, None, None


class _TargetLogprobs(torch.autograd.Function):
    """Log-probabilities for any loss; the backward pass computes the logits again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, a: Tensor | None, b: Tensor | None, head: Linear, targets: Tensor, scale: float
    ) -> Tensor:
        logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        normalizers = torch.empty_like(logprobs)
        for begin, end in _chunks(len(hidden)):
            logits = _logits(hidden[begin:end], head, scale)
            read_logits(logits, targets[begin:end], logprobs[begin:end], normalizers[begin:end], None, normalized=False)
            del logits
        ctx.save_for_backward(hidden, targets, normalizers)
        ctx.head, ctx.scale = head, scale
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logprob: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, normalizers = ctx.saved_tensors
        factors = by_logprob.float().contiguous() * ctx.scale
        gradients = _Gradients.empty(hidden, ctx.head)
        for begin, end in _chunks(len(hidden)):
            part = hidden[begin:end]
            logits = _logits(part, ctx.head, ctx.scale)
            read_logits(
                logits, targets[begin:end], normalizers[begin:end], normalizers[begin:end], factors[begin:end],
                normalized=True,
            )  # fmt: skip
            gradients.add(begin, end, part, logits, ctx.head)
            del logits
        return gradients.hidden, gradients.a, gradients.b, None, None, None


def cross_entropy(
    hidden: Tensor, head: Linear, targets: Tensor, weights: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Compute the loss of TuFT's cross_entropy, and the log-probabilities behind it.

    Args:
        hidden: [n, width], after the last norm.
        head: the unembedding.
        targets: int64 [n].
        weights: [n].
        scale: of the logits, 1 / temperature.

    Returns:
        Sum of -logprob * weight, fp32, with a gradient; log-probabilities, fp32 [n], without one.
    """
    return cast(tuple[Tensor, Tensor], _CrossEntropy.apply(hidden, *head[2:], head, targets, weights, scale))  # type: ignore[no-untyped-call]


def target_logprobs(hidden: Tensor, head: Linear, targets: Tensor, scale: float = 1.0) -> Tensor:
    """Compute log p(target), fp32 [n], with a gradient where the inputs have one. Arguments as cross_entropy."""
    return cast(Tensor, _TargetLogprobs.apply(hidden, *head[2:], head, targets, scale))  # type: ignore[no-untyped-call]
