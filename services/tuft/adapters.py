"""One LoRA adapter of a peft model as operands in the model's precision, and the mapping of gradients back.

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
from torch.nn.functional import linear, pad

from services.tuft.errors import Odd

#: weight [out, in], bias [out], A [R, in], B' [R, out] with the scaling in it. In bf16 the first half of A's and B's
#: rows is hi, the second lo. Plain tuples: dynamo reads them.
Linear: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]

ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP: Final = ("gate_proj", "up_proj", "down_proj")
#: Ranks are filled up with zeros to a multiple of it: a matrix unit takes as long, and up to 32 all are compiled once.
RANKS: Final = 32


def is_split(dtype: torch.dtype) -> bool:
    """Return whether operands of a model in this precision are split into hi and lo."""
    return dtype != torch.float32


def inner(x: Tensor, a: Tensor) -> Tensor:
    """Compute x A', of [n, in], as [n, rank]."""
    product = x @ a.t()
    if not is_split(x.dtype):
        return product
    rank = a.shape[0] // 2
    return product[:, :rank] + product[:, rank:]


def twice(part: Tensor) -> Tensor:
    """Give hi and lo of the other matrix the same factor."""
    return torch.cat((part, part), 1) if is_split(part.dtype) else part


def apply(x: Tensor, layer: Linear) -> Tensor:
    """Compute x W' + bias + (x A') B' for x of [n, in]; products in x's dtype, sums in fp32."""
    a = layer[2]
    return _applied(x, layer, None if a is None else x @ a.t())


def apply_each(x: Tensor, layers: Sequence[Linear]) -> list[Tensor]:
    """Compute apply(x, layer) for several layers; x is multiplied with all their A at once."""
    every = [one[2] for one in layers if one[2] is not None]
    if len(every) < 2:
        return [apply(x, one) for one in layers]
    products = iter(torch.split(x @ torch.cat(every).t(), [len(one) for one in every], 1))
    return [_applied(x, one, None if one[2] is None else next(products)) for one in layers]


def _applied(x: Tensor, layer: Linear, product: Tensor | None) -> Tensor:
    """Finish apply() from x A'."""
    weight, bias, _, b = layer
    y = linear(x, weight, bias)
    if product is None or b is None:
        return y
    if is_split(x.dtype):
        rank = product.shape[1] // 2
        product = product[:, :rank] + product[:, rank:]
    return torch.addmm(y, twice(product), b)


@dataclass(frozen=True, slots=True)
class _Place:
    """One linear layer and what the adapter has there."""

    weight: Tensor
    bias: Tensor | None
    a: nn.Parameter | None  #: fp32 [rank, in]; None: the adapter leaves this layer alone
    b: nn.Parameter | None  #: fp32 [out, rank]
    scaling: float  #: alpha / rank


@dataclass(frozen=True, slots=True)
class _Group:
    """Matrices of one shape, which are split at once: a model has few shapes and many layers."""

    numbers: list[int]  #: in Layout.masters
    rank: int
    scale: float | None  #: of B; None: these are As
    head: bool  #: of the unembedding, not of the layers

    def split(self, masters: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Give [layers, R, in or out] in `dtype`."""
        stacked = torch.stack([masters[number] for number in self.numbers])
        if self.scale is not None:
            stacked = stacked.transpose(1, 2) * self.scale
        stacked = pad(stacked, (0, 0, 0, -self.rank % RANKS))
        if not is_split(dtype):
            return stacked.to(dtype).contiguous()
        hi = stacked.to(dtype)
        return torch.cat((hi, (stacked - hi.float()).to(dtype)), 1)

    def joined(self, gradient: Tensor) -> tuple[Tensor, ...]:
        """Turn the gradient of split()'s result into those of the masters, fp32. That of lo is hi's once more."""
        stacked = gradient[:, : self.rank].float()
        if self.scale is not None:
            stacked = (stacked.transpose(1, 2) * self.scale).contiguous()
        return stacked.unbind()


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one adapter's matrices are. Goes stale when the adapter is loaded, made or removed."""

    places: tuple[_Place, ...]  #: ATTENTION and MLP of each layer, then the head
    masters: list[Tensor]  #: A, B, A, B, ... of the places that have them
    groups: list[_Group]  #: those of the layers, then the head's

    @classmethod
    def of(cls, causal_lm: nn.Module, name: str) -> Layout:
        """Find an adapter in a model that `checks.model_reason` accepts.

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
        places = tuple(_place(module, name) for module in modules)
        masters: list[Tensor] = []
        groups: dict[tuple[object, ...], _Group] = {}
        for place in places:
            if place.a is None or place.b is None:
                continue
            rank, head = len(place.a), place is places[-1]
            for matrix, scale in ((place.a, None), (place.b, place.scaling)):
                group = groups.setdefault((head, matrix.shape, scale), _Group([], rank, scale, head))
                group.numbers.append(len(masters))
                masters.append(matrix)
        return cls(places, masters, list(groups.values()))

    def operands(self, dtype: torch.dtype, *, gradient: bool) -> Operands:
        """Split the matrices as they are now.

        Args:
            dtype: the model's.
            gradient: the stacks are leaves.
        """
        with torch.no_grad():
            stacks = [group.split(self.masters, dtype) for group in self.groups]
        return Operands(self, [one.requires_grad_(gradient) for one in stacks])


@dataclass(frozen=True, slots=True)
class Operands:
    """What a pass multiplies with."""

    layout: Layout
    stacks: Sequence[Tensor]  #: a tensor for each of Layout.groups, [matrices, R, in or out]

    def of_layers(self) -> list[Tensor]:
        """Return the stacks but the unembedding's."""
        return [one for one, group in zip(self.stacks, self.layout.groups, strict=True) if not group.head]

    def with_layers(self, stacks: Sequence[Tensor]) -> Operands:
        """Return these operands with other values in the layers."""
        left = iter(stacks)
        every = [one if group.head else next(left) for one, group in zip(self.stacks, self.layout.groups, strict=True)]
        return Operands(self.layout, every)

    def signature(self) -> tuple[object, ...]:
        """Return which layers have which shapes: the same for adapters that one compilation serves."""
        return tuple(
            (tuple(one.shape), tuple(group.numbers))
            for one, group in zip(self.stacks, self.layout.groups, strict=True)
            if not group.head
        )

    def linears(self) -> list[Linear]:
        """Return the linear layers in the order of Layout.places."""
        matrices: dict[int, Tensor] = {}
        for group, stack in zip(self.layout.groups, self.stacks, strict=True):
            matrices.update(zip(group.numbers, stack.unbind(), strict=True))
        left = iter(matrices[number] for number in range(len(matrices)))
        return [
            (one.weight, one.bias, None, None) if one.a is None else (one.weight, one.bias, next(left), next(left))
            for one in self.layout.places
        ]

    def gradients(self) -> list[Tensor]:
        """Return the gradients of the masters, fp32, in their order; zeros where nothing was trained."""
        found: dict[int, Tensor] = {}
        with torch.no_grad():
            for group, stack in zip(self.layout.groups, self.stacks, strict=True):
                joined = group.joined(torch.zeros_like(stack) if stack.grad is None else stack.grad)
                found.update(zip(group.numbers, joined, strict=True))
        return [found[number] for number in range(len(found))]


class Accumulator:
    """Sums the gradients of a call's passes, so that a failed call leaves none behind."""

    def __init__(self) -> None:
        self._total: list[Tensor] = []

    def add(self, gradients: list[Tensor]) -> None:
        """Add one pass."""
        if self._total:
            torch._foreach_add_(self._total, gradients)
        else:
            self._total = gradients

    def commit(self, masters: Sequence[Tensor]) -> None:
        """Add the sum to the parameters' gradients, as backward() does. An empty sum changes nothing."""
        if not self._total:
            return
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
    """Return whether peft's forward is x W' + scaling (x A') B', without variants, dropout, bias or merged weights."""
    return (
        name not in module.lora_variant
        and isinstance(module.lora_dropout[name], nn.Identity)
        and module.lora_B[name].bias is None
        and not module.merged
        and not module.disable_adapters
        and not module.fan_in_fan_out
        and module.lora_A[name].weight.dtype == torch.float32
    )
