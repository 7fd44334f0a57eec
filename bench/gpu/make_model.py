"""Writes a Qwen3 geometry with random bf16 weights as a Hugging Face folder: nothing can be downloaded on the host.

python -m bench.gpu.make_model tiny|0.6b|4b|8b DIR
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.gpu.figures import GEOMETRY
from bench.program import TUFT, libraries, usage

PROGRAM: Final = usage("bench.gpu.make_model", __doc__)
PROGRAM.add_argument("size", choices=sorted(GEOMETRY))
PROGRAM.add_argument("folder", type=Path)

with libraries(TUFT, __name__, PROGRAM):
    import torch
    import transformers


def main() -> None:
    """Makes it on the GPU, where there is one."""
    asked = PROGRAM.parse_args()
    geometry = GEOMETRY[asked.size]
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
    model.save_pretrained(asked.folder)


if __name__ == "__main__":
    main()
