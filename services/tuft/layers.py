"""The decoder of a dense Qwen3, Qwen2 or Llama on packed rows: two functions a layer around attention.

On a GPU torch.compile fuses norms, rotary embedding and SwiGLU into the matrix products. Adapters are arguments and the
number of tokens is dynamic. So one compilation serves every pass and every adapter up to rank 32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn
from torch.nn.functional import embedding, silu
from torch.utils.checkpoint import checkpoint

from services.tuft.adapters import Linear, Operands, apply, apply_each
from services.tuft.attention import attend

PER_LAYER = 7  #: linear layers of a decoder layer, as adapters.Layout orders them
RECOMPILATIONS = 64  #: for larger ranks, train_* flags, with and without gradient
#: Share of what the compiler would keep for the backward pass. At 0.7 it computes norms and SwiGLU again: a quarter
#: less memory a token, and on an H200 1 % less speed at 4B and none at 0.6B (docs/performance.md).
KEPT = 0.7


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalize the last dimension in fp32, as transformers does."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos[:, None] + turned * sin[:, None]


def _before_attention(
    x: Tensor, cos: Tensor, sin: Tensor, norm: Tensor, query_norm: Tensor | None, key_norm: Tensor | None,
    query: Linear, key: Linear, value: Linear, eps: float, head_size: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    normed = rms_norm(x, norm, eps)
    q, k, v = (one.view(x.shape[0], -1, head_size) for one in apply_each(normed, (query, key, value)))
    if query_norm is not None and key_norm is not None:
        q, k = rms_norm(q, query_norm, eps), rms_norm(k, key_norm, eps)
    return _rotate(q, cos, sin), _rotate(k, cos, sin), v


def _after_attention(
    x: Tensor, attended: Tensor, norm: Tensor, out: Linear, gate: Linear, up: Linear, down: Linear, eps: float
) -> Tensor:
    x = x + apply(attended.reshape(x.shape[0], -1), out)
    normed = rms_norm(x, norm, eps)
    gated, upped = apply_each(normed, (gate, up))
    return x + apply(silu(gated) * upped, down)


class Decoder:
    """From token ids to normed hidden states."""

    def __init__(self, causal_lm: nn.Module, backend: str | None) -> None:
        """Prepare; nothing is compiled before the first pass.

        Args:
            causal_lm: a model that `checks.model_reason` accepts.
            backend: of torch.compile; None: run as written.
        """
        lm: Any = causal_lm
        self._core = lm.model
        self._eps = float(lm.config.rms_norm_eps)
        self._head_size = int(lm.model.layers[0].self_attn.head_dim)
        self._compiled = backend is not None
        self._before: Callable[..., tuple[Tensor, Tensor, Tensor]] = _before_attention
        self._after: Callable[..., Tensor] = _after_attention
        if backend is not None:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
            torch._functorch.config.activation_memory_budget = KEPT
            self._before = torch.compile(_before_attention, dynamic=False, backend=backend)
            self._after = torch.compile(_after_attention, dynamic=False, backend=backend)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of weights and hidden states."""
        return self._core.embed_tokens.weight.dtype  # type: ignore[no-any-return]

    def __call__(
        self, tokens: Tensor, positions: Tensor, starts: Tensor, longest: int, operands: Operands, *,
        gradient: bool, recompute: bool = False,
    ) -> Tensor:  # fmt: skip
        """Compute hidden states after the last norm, [T, width].

        Args:
            tokens: int64 [T].
            positions: int64 [T].
            starts: int32 [R + 1], where rows begin; ends with T.
            longest: tokens of the longest row.
            operands: the adapter's.
            gradient: a backward pass follows.
            recompute: keep one layer's activations at a time, for a third more work.
        """
        linears = operands.linears()
        with torch.no_grad():
            x = embedding(tokens, self._core.embed_tokens.weight)  # the module's hook would ask for its gradient
            cos, sin = (one[0] for one in self._core.rotary_emb(x[None], positions[None]))
        if gradient:
            x.requires_grad_(True)  # the first layer is then compiled like the others

        def run(x: Tensor, number: int) -> Tensor:
            return self._layer(x, cos, sin, starts, longest, number, linears)

        for number in range(len(self._core.layers)):
            if gradient and recompute:
                x = checkpoint(run, x, number, use_reentrant=False, preserve_rng_state=False)
            else:
                x = run(x, number)
        norm = self._core.norm
        return rms_norm(x, norm.weight, norm.variance_epsilon)

    def _layer(
        self, x: Tensor, cos: Tensor, sin: Tensor, starts: Tensor, longest: int, number: int, linears: Sequence[Linear]
    ) -> Tensor:
        layer = self._core.layers[number]
        query, key, value, out, gate, up, down = linears[PER_LAYER * number : PER_LAYER * (number + 1)]
        attention = layer.self_attn
        query_norm, key_norm = (getattr(getattr(attention, one, None), "weight", None) for one in ("q_norm", "k_norm"))
        self._any_length(x, cos, sin)
        q, k, v = self._before(
            x, cos, sin, layer.input_layernorm.weight, query_norm, key_norm, query, key, value, self._eps,
            self._head_size,
        )  # fmt: skip
        attended = attend(q, k, v, starts, longest, float(attention.scaling))
        self._any_length(attended)
        return self._after(x, attended, layer.post_attention_layernorm.weight, out, gate, up, down, self._eps)

    def _any_length(self, *tensors: Tensor) -> None:
        """Let the compiler assume nothing of the number of tokens."""
        if self._compiled:
            for tensor in tensors:
                torch._dynamo.mark_dynamic(tensor, 0)
