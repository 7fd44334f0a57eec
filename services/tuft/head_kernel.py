"""Triton kernel of the head: one program a row of logits. Tests compare it with head.py's plain torch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 8192  #: logits that a program reads at once


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # noqa: ANN202  (Triton reads annotations as its own)
    logits,  # noqa: ANN001
    stride,  # noqa: ANN001
    targets,  # noqa: ANN001
    factors,  # noqa: ANN001
    logprobs,  # noqa: ANN001
    normalizers,  # noqa: ANN001
    size,  # noqa: ANN001
    normalized: tl.constexpr,
    with_gradient: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    begin = logits + row * stride
    target = tl.load(targets + row)
    if normalized:
        normalizer = tl.load(normalizers + row)
    else:
        largest = float("-inf")
        total = 0.0
        for first in range(0, size, block):
            columns = first + tl.arange(0, block)
            values = tl.load(begin + columns, mask=columns < size, other=float("-inf")).to(tl.float32)
            larger = tl.maximum(largest, tl.max(values, 0))
            total = total * tl.exp(largest - larger) + tl.sum(tl.exp(values - larger), 0)
            largest = larger
        normalizer = largest + tl.log(total)
        tl.store(normalizers + row, normalizer)
        tl.store(logprobs + row, tl.load(begin + target).to(tl.float32) - normalizer)
    if with_gradient:
        factor = tl.load(factors + row)
        for first in range(0, size, block):
            columns = first + tl.arange(0, block)
            values = tl.load(begin + columns, mask=columns < size, other=float("-inf")).to(tl.float32)
            gradient = -factor * tl.exp(values - normalizer)
            gradient = tl.where(columns == target, gradient + factor, gradient)
            tl.store(begin + columns, gradient.to(logits.dtype.element_ty), mask=columns < size)


def read_logits(
    logits: Tensor, targets: Tensor, logprobs: Tensor, normalizers: Tensor, factors: Tensor | None, *, normalized: bool
) -> None:
    """Compute head.read_logits on a GPU."""
    _kernel[(len(logits),)](
        logits, logits.stride(0), targets, normalizers if factors is None else factors, logprobs, normalizers,
        logits.shape[1], normalized=normalized, with_gradient=factors is not None, block=BLOCK, num_warps=16,
    )  # fmt: skip
