"""Small random models of each architecture, and requests for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tinker import types
from tuft.backends.hf_training_model import HFTrainingModel
from tuft.config import ModelConfig

from services.tuft.model import AcceleratedModel

Model = Any
VOCABULARY = 211
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS = {
    "qwen3": lambda: transformers.Qwen3Config(**COMMON, head_dim=16, tie_word_embeddings=True),
    "qwen2": lambda: transformers.Qwen2Config(**COMMON, tie_word_embeddings=False),
    "llama": lambda: transformers.LlamaConfig(
        **COMMON, tie_word_embeddings=False, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3
    ),
}
CLASSES = {
    "qwen3": transformers.Qwen3ForCausalLM,
    "qwen2": transformers.Qwen2ForCausalLM,
    "llama": transformers.LlamaForCausalLM,
}


def weights(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Path:
    """The folder of a random model, made once."""
    path = folder / f"{kind}-{str(dtype).removeprefix('torch.')}"
    if not path.exists():
        torch.manual_seed(0)
        model = CLASSES[kind](CONFIGS[kind]()).to(dtype)
        with torch.no_grad():
            for name, one in model.named_parameters():  # biases and norms that do something
                if one.dim() == 1:
                    one.add_(torch.randn_like(one) * 0.2)
                assert one.any(), name
        model.config.dtype = dtype
        model.save_pretrained(path)
    return path


def model(cls: type, path: Path, micro: int = 3) -> Model:
    """TuFT's model class over a folder."""
    config = ModelConfig(
        model_name="m", model_path=path, max_model_len=256, micro_batch_size=micro, capabilities=["training"]
    )
    return cls(config)


def add_adapter(made: Model, name: str, seed: int, rank: int = 4, **flags: bool) -> None:
    """A fresh adapter whose weights depend on the seed alone; B is not zero."""
    asyncio.run(made.create_adapter(name, types.LoraConfig(rank=rank, **flags)))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one in parameters(made, name):
            one.copy_(torch.randn(one.shape, generator=draw) * 0.1)


def pair(folder: Path, kind: str, dtype: torch.dtype = torch.float32, **flags: bool) -> tuple[Model, Model]:
    """Stock and accelerated, both with the same adapter "one"."""
    path = weights(folder, kind, dtype)
    both = model(HFTrainingModel, path), model(AcceleratedModel, path)
    for made in both:
        add_adapter(made, "one", 1, **flags)
    assert both[1].status.accelerated, both[1].status.reason
    return both


def parameters(made: Model, name: str) -> list[torch.nn.Parameter]:
    """Of an adapter, in a fixed order."""
    return [one for group in made.adapter_optimizer[name].param_groups for one in group["params"]]


def gradients(made: Model, name: str = "one") -> torch.Tensor:
    """All of them in one vector."""
    return torch.cat([one.grad.flatten().double() for one in parameters(made, name)])


def forget_gradients(made: Model, name: str = "one") -> None:
    """As if nothing had been trained."""
    for one in parameters(made, name):
        one.grad = None


def rows(lengths: Sequence[int], seed: int = 0, **more: str) -> list[types.Datum]:
    """Random rows with weights; `more` names further inputs: "normal" or "weights"."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for length in lengths:
        ids = torch.randint(VOCABULARY, (length + 1,), generator=draw)
        inputs = {"target_tokens": ids[1:].clone(), "weights": torch.rand(length, generator=draw)}
        inputs["weights"][: length // 3] = 0
        for name in more:
            inputs[name] = torch.randn(length, generator=draw)
        made.append(
            types.Datum(
                model_input=types.ModelInput.from_ints(ids[:-1].tolist()),
                loss_fn_inputs={key: types.TensorData.from_torch(value) for key, value in inputs.items()},
            )
        )
    return made


def logprobs(answer: types.ForwardBackwardOutput) -> torch.Tensor:
    """Of all rows, one after the other."""
    return torch.cat([one["logprobs"].to_torch() for one in answer.loss_fn_outputs])


def call(
    made: Model,
    data: list[types.Datum],
    name: str = "one",
    loss: str = "cross_entropy",
    config: dict[str, float] | None = None,
    *,
    backward: bool = True,
) -> types.ForwardBackwardOutput:
    """One request."""
    return asyncio.run(made.forward(data, name, loss, config, backward=backward))


def step(made: Model, name: str = "one", rate: float = 1e-2) -> None:
    """One optimizer step."""
    asyncio.run(made.optim_step(types.AdamParams(learning_rate=rate), name))
