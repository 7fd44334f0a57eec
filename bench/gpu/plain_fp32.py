"""The same steps in fp32 through plain transformers and peft: what both are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from bench.gpu.step_rows import GPU


def plain_model(weights: Path, start: Sequence[Tensor]) -> tuple[Any, list[Any]]:
    """The model in fp32 with an adapter as at the start."""
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    plain = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32, device_map="cuda" if GPU else "cpu")
    made: Any = get_peft_model(plain, LoraConfig(r=16, lora_alpha=32, target_modules=names))
    own = [one for name, one in made.named_parameters() if "lora_" in name]
    with torch.no_grad():
        for one, first in zip(own, start, strict=True):
            one.copy_(first)
    return made.train(False), own


def plain_loss(plain: Any, row: tuple[np.ndarray, np.ndarray]) -> float:
    """Forward and backward of one row; only trained positions get logits."""
    ids = torch.from_numpy(row[0]).to(plain.device)
    weights = torch.from_numpy(row[1]).to(plain.device)
    hidden = plain.base_model.model.model(input_ids=ids[None, :-1], use_cache=False).last_hidden_state[0]
    chosen = weights.nonzero()[:, 0]
    logits = hidden[chosen] @ plain.base_model.model.lm_head.weight.t()
    loss = (cross_entropy(logits, ids[1:][chosen], reduction="none") * weights[chosen]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss)
