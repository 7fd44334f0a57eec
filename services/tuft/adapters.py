"""One LoRA adapter of a peft model as operands in the model's precision, and the way its gradients take back.

TuFT keeps A and B in fp32 beside a bf16 model. Rounded to bf16 they would lose what an Adam step of 1e-4 changes, and
losses would move by 1e-3. So each matrix is split into two bf16 ones, hi + lo, 16 bits of mantissa together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear

from services.tuft.errors import Odd

#: hi and lo of a matrix; lo is None where hi is exact (fp32 models). hi is the leaf that collects the gradient.
Parts: TypeAlias = tuple[Tensor, Tensor | None]
#: weight [out, in], bias [out], A [rank, in], B [out, rank] with the scaling in it. Plain tuples: dynamo reads them.
Linear: TypeAlias = tuple[Tensor, Tensor | None, Parts | None, Parts | None]

ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP: Final = ("gate_proj", "up_proj", "down_proj")


def apply(x: Tensor, layer: Linear) -> Tensor:
    """Compute x W' + bias + (x A') B' for x of [n, in]; products in x's dtype, sums in fp32."""
    weight, bias, a, b = layer
    y = linear(x, weight, bias)
    if a is None or b is None:
        return y
    if a[1] is None or b[1] is None:
        return torch.addmm(y, x @ a[0].t(), b[0].t())
    rank = a[0].shape[0]
    inner = x @ torch.cat((a[0], a[1])).t()
    inner = inner[:, :rank] + inner[:, rank:]
    return torch.addmm(y, torch.cat((inner, inner), 1), torch.cat((b[0], b[1]), 1).t())


@dataclass(frozen=True, slots=True)
class _Place:
    """One linear layer and what the adapter has there."""

    weight: Tensor
    bias: Tensor | None
    a: nn.Parameter | None  #: fp32 [rank, in]; None: the adapter leaves this layer alone
    b: nn.Parameter | None  #: fp32 [out, rank]
    scaling: float  #: alpha / rank


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one adapter's matrices are. Goes stale when the adapter is loaded, made or removed."""

    places: tuple[_Place, ...]  #: ATTENTION and MLP of each layer, then the head

    @classmethod
    def of(cls, causal_lm: nn.Module, name: str) -> Layout:
        """Find an adapter in a model of layers.supported.

        Raises:
            Odd: it trains something that is not computed here.
        """
        modules = list(_linear_modules(causal_lm))
        known = set(map(id, modules))
        elsewhere = [
            m for m in causal_lm.modules() if isinstance(m, LoraLayer) and id(m) not in known and _has(m, name)
        ]
        if elsewhere:
            raise Odd(f"an adapter on {type(elsewhere[0]).__name__}")
        return cls(tuple(_place(module, name) for module in modules))

    @property
    def masters(self) -> list[Tensor]:
        """A, B, A, B, ... of the places that have them."""
        return [one for place in self.places if place.a is not None for one in (place.a, place.b) if one is not None]

    @property
    def _scales(self) -> list[float]:
        return [scale for place in self.places if place.a is not None for scale in (1.0, place.scaling)]

    def operands(self, dtype: torch.dtype, *, gradient: bool) -> Operands:
        """Split the matrices as they are now.

        Args:
            dtype: the model's.
            gradient: the hi parts become leaves.
        """
        masters = self.masters
        with torch.no_grad():
            scaled = list(torch._foreach_mul(masters, self._scales)) if masters else []
            his = [torch.empty_like(one, dtype=dtype) for one in scaled]
            rests: Sequence[Tensor | None] = [None] * len(his)
            if his:
                torch._foreach_copy_(his, scaled)
            if his and dtype != torch.float32:
                rests = _rests(scaled, his)
        for hi in his:
            hi.requires_grad_(gradient)
        left = iter(zip(his, rests, strict=True))
        linears: list[Linear] = [
            (place.weight, place.bias, None, None)
            if place.a is None
            else (place.weight, place.bias, next(left), next(left))
            for place in self.places
        ]
        return Operands(linears, his, self._scales)


def _rests(exact: list[Tensor], rounded: list[Tensor]) -> list[Tensor]:
    """What rounding took, in the rounded dtype. Overwrites `exact`."""
    back = [torch.empty_like(one) for one in exact]
    torch._foreach_copy_(back, rounded)
    torch._foreach_sub_(exact, back)
    rests = [torch.empty_like(one) for one in rounded]
    torch._foreach_copy_(rests, exact)
    return rests


@dataclass(frozen=True, slots=True)
class Operands:
    """What a pass multiplies with."""

    linears: Sequence[Linear]  #: as Layout.places
    leaves: Sequence[Tensor]  #: hi parts, as Layout.masters
    scales: Sequence[float]  #: of the leaves

    def gradients(self) -> list[Tensor]:
        """Gradients of the masters, fp32, in their order; zeros where nothing was trained."""
        if not self.leaves:
            return []
        with torch.no_grad():
            found = [torch.zeros_like(one, dtype=torch.float32) for one in self.leaves]
            got = [(to, one.grad) for to, one in zip(found, self.leaves, strict=True) if one.grad is not None]
            if got:
                torch._foreach_copy_([to for to, _ in got], [gradient for _, gradient in got])
                torch._foreach_mul_(found, self.scales)
        return found


class Accumulator:
    """Adds up the gradients of a call's passes, so that a call that fails leaves none behind."""

    def __init__(self) -> None:
        self._total: list[Tensor] = []

    def add(self, gradients: list[Tensor]) -> None:
        """Take in one pass."""
        if self._total:
            torch._foreach_add_(self._total, gradients)
        else:
            self._total = gradients

    def commit(self, masters: Sequence[Tensor]) -> None:
        """Add the sum to the parameters' gradients, as backward() does."""
        missing = [(one, new) for one, new in zip(masters, self._total, strict=True) if one.grad is None]
        present = [(one.grad, new) for one, new in zip(masters, self._total, strict=True) if one.grad is not None]
        if present:
            torch._foreach_add_([old for old, _ in present], [new for _, new in present])
        for one, new in missing:
            one.grad = new


def _linear_modules(causal_lm: nn.Module) -> Iterator[nn.Module]:
    core: Any = causal_lm
    for layer in core.model.layers:
        for owner, names in ((layer.self_attn, ATTENTION), (layer.mlp, MLP)):
            yield from (getattr(owner, name) for name in names)
    yield core.lm_head


def _has(module: Any, name: str) -> bool:
    return any(name in getattr(module, part, ()) for part in module.adapter_layer_names)


def _place(module: Any, name: str) -> _Place:
    if not isinstance(module, LoraLayer):
        return _Place(module.weight, module.bias, None, None, 1.0)
    weight, bias = module.base_layer.weight, module.base_layer.bias
    if not _has(module, name):
        return _Place(weight, bias, None, None, 1.0)
    if type(module) is not LoraLinear or not _plain(module, name):
        raise Odd(f"an adapter that is not plain LoRA ({type(module).__name__})")
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    return _Place(weight, bias, a, b, float(module.scaling[name]))


def _plain(module: Any, name: str) -> bool:
    """Whether peft's forward is x W' + scaling (x A') B', without variants, dropout, bias or merged weights."""
    return (
        name not in module.lora_variant
        and isinstance(module.lora_dropout[name], nn.Identity)
        and module.lora_B[name].bias is None
        and not module.merged
        and not module.disable_adapters
        and not module.fan_in_fan_out
        and module.lora_A[name].weight.dtype == torch.float32
    )
