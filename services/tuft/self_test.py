"""Compare the accelerated pass with TuFT's own on the model at hand, before any client is served."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from tinker import types
from torch import Tensor
from tuft.backends.hf_training_model import HFTrainingModel

from services.tuft.status import SelfTest

ADAPTER: Final = "turnloom-self-test"
RANK: Final = 16
#: Tokens of the rows: odd, and not in order.
LENGTHS: Final = (701, 1, 1203, 333, 997, 64, 811)
EXACT: Final = 16  #: rows may be so many times shorter in fp32
#: Tokens are drawn as vocabulary * u^SKEW. Where all are equally likely hardly anything can be learned: gradients
#: cancel out, and what is left to compare is what bf16 rounds (a cosine of 0.997 at 4B).
SKEW: Final = 8
DEVIATION: Final = 0.01  #: of the random B, so that A has gradients as well

#: data, adapter, loss, its config, backward -> TuFT's answer
Forward: TypeAlias = Callable[..., Awaitable[types.ForwardBackwardOutput]]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The largest accepted difference between the two."""

    loss: float = 1e-3  #: relative
    cosine: float = 0.9995
    logprob: float = 0.25  #: nats; a bf16 model's own rounding is up to 0.06

    def reason(self, found: SelfTest) -> str:
        """Return why not to accelerate, or ""."""
        near = (
            found.loss_difference <= self.loss
            and found.gradient_cosine >= self.cosine
            and found.logprob_difference <= self.logprob
        )
        return "" if near else f"the self-test differs from stock TuFT ({found})"


async def compare(model: Any, theirs: Forward, ours: Forward) -> SelfTest:
    """Run both on the same rows and leave the adapter ADAPTER behind, for the caller to remove.

    Args:
        model: an AcceleratedModel that serves no client yet.
        theirs: TuFT's forward.
        ours: the accelerated one.
    """
    began = time.monotonic()
    await HFTrainingModel.create_adapter(model, ADAPTER, types.LoraConfig(rank=RANK))
    parameters = [one for group in model.adapter_optimizer[ADAPTER].param_groups for one in group["params"]]
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in parameters:
            if not one.any():
                one.copy_(torch.randn(one.shape, generator=draw) * DEVIATION)
    data = _rows(model.causal_lm, draw)
    micro_batch_size, model.config.micro_batch_size = model.config.micro_batch_size, 1  # TuFT's passes stay small

    async def trained(forward: Forward) -> tuple[types.ForwardBackwardOutput, Tensor]:
        found = await forward(data, ADAPTER, "cross_entropy", {}, True)
        await model.finished()  # an answer comes before its gradients
        gradient = torch.cat([one.grad.flatten().double() for one in parameters])
        for one in parameters:
            one.grad = None
        return found, gradient

    try:
        (expected, by_them), (found, by_us) = await trained(theirs), await trained(ours)
        both = (found, await ours(data, ADAPTER, "cross_entropy", {}, False))
    finally:
        model.config.micro_batch_size = micro_batch_size
    return SelfTest(
        loss_difference=max(abs(one.metrics["loss:sum"] / expected.metrics["loss:sum"] - 1.0) for one in both),
        gradient_cosine=float(torch.nn.functional.cosine_similarity(by_them, by_us, 0)),
        logprob_difference=max(_furthest(expected, one) for one in both),
        seconds=round(time.monotonic() - began, 3),
    )


def _rows(causal_lm: Any, draw: torch.Generator) -> list[types.Datum]:
    """Make rows of skewed random tokens; a third of the weights is 0 and the others differ."""
    rows = []
    exact = EXACT if causal_lm.dtype == torch.float32 else 1
    for longest in LENGTHS:
        length = min(-(-longest // exact), causal_lm.config.max_position_embeddings)
        ids = (torch.rand(length + 1, generator=draw) ** SKEW * causal_lm.config.vocab_size).long()
        weights = torch.rand(length, generator=draw)
        weights[: length // 3] = 0
        rows.append(
            types.Datum(
                model_input=types.ModelInput.from_ints(ids[:-1].tolist()),
                loss_fn_inputs={
                    "target_tokens": types.TensorData.from_torch(ids[1:].clone()),
                    "weights": types.TensorData.from_torch(weights),
                },
            )
        )
    return rows


def _furthest(first: types.ForwardBackwardOutput, second: types.ForwardBackwardOutput) -> float:
    pairs = zip(first.loss_fn_outputs, second.loss_fn_outputs, strict=True)
    return max(float((a["logprobs"].to_torch() - b["logprobs"].to_torch()).abs().max()) for a, b in pairs)
