"""The little model behind the fake TuFT: a bigram softmax with a low-rank adapter, in float64. Knows no HTTP.

logits(next | token) = base[token] + scale * a[token] @ b      scale = lora_alpha / rank = 2, as TuFT has it

Its gradients are real, and it adds them up as counts: for token x, s[x] is the sum of its weights and n[x, y] the
weight of the target y after it. The loss's gradient with respect to the logits of x is s[x] * softmax(x) - n[x], so
any way of cutting a batch into calls gives the same bits as long as the weights add up exactly (0 and 1 do).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Floats = NDArray[np.float64]
Tokens = NDArray[np.int64]

SCALE = 2.0  #: lora_alpha / rank
TARGET_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


@dataclass(frozen=True, slots=True)
class Adam:
    """What a client sends with optim_step."""

    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    grad_clip_norm: float  #: 0 = no clipping


@dataclass(frozen=True, slots=True)
class Row:
    """One datum of a forward call."""

    tokens: Tokens  #: shape (n,), the input
    targets: Tokens  #: shape (n,)
    weights: Floats  #: shape (n,)


class Base:
    """The frozen part. Token ids of any vocabulary are folded into `buckets`."""

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets
        self.logits = np.random.default_rng(0).standard_normal((buckets, buckets))


class Adapter:
    """One run's trainable part, its gradients so far, and its Adam state."""

    def __init__(self, base: Base, rank: int, seed: int) -> None:
        self.base = base
        self.rank = rank
        draws = np.random.default_rng(seed).standard_normal((base.buckets, rank))
        self.parameters: dict[str, Floats] = {"a": draws / math.sqrt(rank), "b": np.zeros((rank, base.buckets))}
        self.forget_optimizer()
        self.forget_gradients()

    def forget_optimizer(self) -> None:
        """As after a load without the optimizer."""
        self.steps = 0
        self.first = {name: np.zeros_like(value) for name, value in self.parameters.items()}
        self.second = {name: np.zeros_like(value) for name, value in self.parameters.items()}

    def forget_gradients(self) -> None:
        """As after an optimizer step."""
        self.pending = False
        self.carried: dict[str, Floats] = {}  #: gradients of weights that a load has replaced since
        self.weight_of = np.zeros(self.base.buckets)  #: s, shape (buckets,)
        self.weight_of_pair = np.zeros((self.base.buckets, self.base.buckets))  #: n, shape (buckets, buckets)

    def _log_softmax(self, tokens: Tokens) -> Floats:
        """Log probabilities of what follows each of these tokens: shape (len(tokens), buckets)."""
        logits = self.base.logits[tokens] + SCALE * (self.parameters["a"][tokens] @ self.parameters["b"])
        logits -= logits.max(axis=1, keepdims=True)
        shifted: Floats = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return shifted

    def after(self, token: int) -> Floats:
        """Log probabilities of what follows a token: shape (buckets,)."""
        logprobs: Floats = self._log_softmax(np.array([token % self.base.buckets]))[0]
        return logprobs

    def forward(self, rows: list[Row]) -> tuple[list[Floats], float]:
        """Log probabilities of the targets row by row, and the sum of -logprob * weight in nats."""
        tokens = np.concatenate([row.tokens for row in rows]) % self.base.buckets
        targets = np.concatenate([row.targets for row in rows]) % self.base.buckets
        known, place = np.unique(tokens, return_inverse=True)
        logprobs = self._log_softmax(known)[place, targets]
        loss = -math.fsum(logprobs * np.concatenate([row.weights for row in rows]))
        return np.split(logprobs, np.cumsum([len(row.tokens) for row in rows])[:-1]), loss

    def backward(self, rows: list[Row]) -> None:
        """Adds these rows' gradients to those that wait for the optimizer."""
        self.pending = True
        for row in rows:  # np.add.at adds one by one and in order: cutting a batch elsewhere changes no bit
            tokens = row.tokens % self.base.buckets
            np.add.at(self.weight_of, tokens, row.weights)
            np.add.at(self.weight_of_pair, (tokens, row.targets % self.base.buckets), row.weights)

    def _gradients(self) -> dict[str, Floats]:
        seen = np.flatnonzero((self.weight_of != 0) | self.weight_of_pair.any(axis=1))
        of_logits = self.weight_of[seen, None] * np.exp(self._log_softmax(seen)) - self.weight_of_pair[seen]
        a = np.zeros_like(self.parameters["a"])
        a[seen] = SCALE * (of_logits @ self.parameters["b"].T)
        gradients = {"a": a, "b": SCALE * (self.parameters["a"][seen].T @ of_logits)}
        return {name: gradient + self.carried.get(name, 0.0) for name, gradient in gradients.items()}

    def optim_step(self, adam: Adam) -> None:
        """AdamW as in torch.optim.AdamW. Without a forward_backward before it nothing happens, as in torch."""
        if not self.pending:
            return
        gradients = self._gradients()
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
        clip = min(1.0, adam.grad_clip_norm / (norm + 1e-6)) if adam.grad_clip_norm else 1.0
        self.steps += 1
        for name, gradient in gradients.items():
            value, first, second = self.parameters[name], self.first[name], self.second[name]
            gradient = gradient * clip  # noqa: PLW2901
            value *= 1 - adam.learning_rate * adam.weight_decay
            first += (1 - adam.beta1) * (gradient - first)
            second += (1 - adam.beta2) * (gradient**2 - second)
            spread = np.sqrt(second / (1 - adam.beta2**self.steps)) + adam.eps
            value -= adam.learning_rate * (first / (1 - adam.beta1**self.steps)) / spread
        self.forget_gradients()

    def save(self, folder: Path, *, base_model: str, optimizer: bool) -> None:
        """Writes folder/adapter and, where asked, folder/optimizer, under TuFT's file names."""
        adapter = folder / "adapter"
        adapter.mkdir(parents=True, exist_ok=True)
        save_file(
            {KEY.format(name.upper()): value for name, value in self.parameters.items()},
            adapter / "adapter_model.safetensors",
        )
        config = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": base_model,
            "r": self.rank,
            "lora_alpha": int(SCALE * self.rank),
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": TARGET_MODULES,
            "inference_mode": True,
        }
        (adapter / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        if optimizer:
            state = {f"first.{name}": value for name, value in self.first.items()}
            state |= {f"second.{name}": value for name, value in self.second.items()}
            state["steps"] = np.array([self.steps])
            (folder / "optimizer").mkdir(exist_ok=True)
            save_file(state, folder / "optimizer" / "optimizer.pt")

    def load(self, folder: Path, *, optimizer: bool) -> None:
        """Takes what save() wrote. Gradients that wait go on waiting: torch keeps them with the parameters."""
        state = load_file(folder / "adapter" / "adapter_model.safetensors")
        waiting = self._gradients() if self.pending else None
        self.parameters = {name: state[KEY.format(name.upper())] for name in self.parameters}
        self.forget_optimizer()
        self.forget_gradients()
        if waiting is not None:
            self.pending, self.carried = True, waiting
        saved = folder / "optimizer" / "optimizer.pt"
        if optimizer and saved.exists():
            moments = load_file(saved)
            self.first = {name: moments[f"first.{name}"] for name in self.parameters}
            self.second = {name: moments[f"second.{name}"] for name in self.parameters}
            self.steps = int(moments["steps"][0])
