"""Writes a Qwen3 geometry with random bf16 weights as a Hugging Face folder: nothing can be downloaded on the host.

python -m bench.gpu.make_model tiny|0.6b|4b|8b DIR
"""

from __future__ import annotations

import sys

import torch
import transformers

from bench.gpu.figures import GEOMETRY


def main() -> None:
    """Makes it on the GPU, where there is one."""
    size, folder = sys.argv[1:3]
    geometry = GEOMETRY[size]
    config = transformers.Qwen3Config(
        vocab_size=geometry.vocabulary,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        hidden_size=geometry.hidden,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        num_key_value_heads=geometry.kv_heads,
        head_dim=geometry.head_dim,
        intermediate_size=geometry.intermediate,
    )
    gpu = torch.cuda.is_available()
    torch.set_default_dtype(torch.bfloat16 if gpu else torch.float32)
    torch.manual_seed(0)
    with torch.device("cuda" if gpu else "cpu"):
        model = transformers.Qwen3ForCausalLM(config)
    model.config.dtype = "bfloat16" if gpu else "float32"
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
