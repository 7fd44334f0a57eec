"""Attention over rows end to end, forward and backward: the FlashAttention kernel that services.tuft uses, and cuDNN's.

    python -m bench.gpu.attention 0.6b|4b OUT.jsonl

Rows of 32 conversations as in bench.gpu, 12,000 to 14,000 tokens. cuDNN plans each shape when it first comes; the
first call is timed apart. Gradients of both are compared. Only for a GPU.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from bench.gpu.figures import GEOMETRY, Geometry
from bench.program import TUFT, end, libraries, usage

PROGRAM: Final = usage("bench.gpu.attention", __doc__)
PROGRAM.add_argument("size", choices=sorted(GEOMETRY))
PROGRAM.add_argument("out", type=Path)

with libraries(TUFT, __name__, PROGRAM):
    import torch
    from torch import Tensor

    from bench.gpu.profile_server import step_lengths

STEPS = 4  #: batches of rows
ROUNDS = 10

Parts: TypeAlias = tuple[Tensor, Tensor, Tensor]


def flash(q: Tensor, k: Tensor, v: Tensor, by: Tensor, starts: Tensor, longest: int, scale: float) -> tuple[Any, ...]:
    """The kernel of services.tuft.attention."""
    out, sums, seed, unused, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, starts, starts, longest, longest, 0.0, True, False, scale=scale
    )
    return out, *torch.ops.aten._flash_attention_backward(
        by, q, k, v, out, sums, starts, starts, longest, longest, 0.0, True, seed, unused, scale=scale
    )


def cudnn(q: Tensor, k: Tensor, v: Tensor, by: Tensor, starts: Tensor, longest: int, scale: float) -> tuple[Any, ...]:
    """cuDNN's, which Hopper has instructions of its own for."""
    found = torch.ops.aten._cudnn_attention_forward(
        q, k, v, None, starts, starts, longest, longest, True, 0.0, True, False, scale=scale
    )
    out, sums, seed, offset = found[0], found[1], found[6], found[7]
    return out, *torch.ops.aten._cudnn_attention_backward(
        by, q, k, v, out, sums, seed, offset, None, starts, starts, longest, longest, 0.0, True, scale=scale
    )


def inputs(geometry: Geometry, lengths: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int, float]:
    """Random q, k, v and gradient, [T, heads, size]."""
    tokens, size = sum(lengths), geometry.head_dim
    q, k, v, by = (
        torch.randn(tokens, heads, size, dtype=torch.bfloat16, device="cuda")
        for heads in (geometry.heads, geometry.kv_heads, geometry.kv_heads, geometry.heads)
    )
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32).cuda()
    return q, k, v, by, starts, max(lengths), size**-0.5


def timed(run: Callable[[], object]) -> float:
    """Milliseconds."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begun)


def main() -> None:
    """Measure both, by turns."""
    asked = PROGRAM.parse_args()
    size, path = asked.size, asked.out
    if not torch.cuda.is_available():
        end("torch sees no GPU; run this on a host with one")
    given = [inputs(GEOMETRY[size], step_lengths(step)) for step in range(STEPS)]
    times: dict[str, list[float]] = {"flash": [], "cudnn": []}
    note: dict[str, object] = {"kind": "attention", "size": size, "torch": torch.__version__}
    try:
        note["first_call_ms"] = [round(timed(lambda one=one: cudnn(*one)), 1) for one in given]  # type: ignore[misc]
        apart = [
            float((ours.float() - theirs.float()).norm() / theirs.float().norm())
            for one in given
            for ours, theirs in zip(cudnn(*one), flash(*one), strict=True)
        ]
        note["largest_relative_difference"] = max(apart)
        for _ in range(ROUNDS):
            for name, run in (("flash", flash), ("cudnn", cudnn)):
                times[name] += [timed(lambda one=one, run=run: run(*one)) for one in given]  # type: ignore[misc]
    except Exception as error:
        note["error"] = f"{type(error).__name__}: {error}"[:500]
    layers = GEOMETRY[size].layers
    for name, found in times.items():
        if found:
            note[f"{name}_ms_a_layer"] = round(statistics.median(found), 3)
            note[f"{name}_ms_a_step"] = round(layers * statistics.median(found), 1)
    line = json.dumps(note)
    print(line)
    with path.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
