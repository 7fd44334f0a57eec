"""What one forward_backward call costs inside TuFT, by its shape: its own model class, without HTTP, Ray and Turnloom.

    python -m bench.gpu.profile_server WEIGHTS OUT.json

Says where a call's time goes: per padded token, per call, for giving memory back to the driver (TuFT empties PyTorch's
cache after every call), and in which kernels. It is what the budget of padded tokens is chosen by.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from tinker import types
from tuft.backends.hf_training_model import HFTrainingModel
from tuft.config import ModelConfig

#: Rows and their length; the last ones are padded: lengths from the first number up to the second.
SHAPES: Final = (
    (1, 256),
    (8, 256),
    (16, 256),
    (32, 256),
    (64, 256),
    (16, 512),
    (32, 512),
    (16, 1024),
    (4, 2048),
    (8, 2048),
)
ROUNDS: Final = 4
RANK: Final = 16


def data(lengths: list[int]) -> list[types.Datum]:
    """Random rows, each token trained."""
    chance = np.random.default_rng(0)
    rows = [chance.integers(0, 150_000, length + 1) for length in lengths]
    return [
        types.Datum(
            model_input=types.ModelInput.from_ints(row[:-1].tolist()),
            loss_fn_inputs={
                "target_tokens": types.TensorData.from_numpy(row[1:].astype(np.int64)),
                "weights": types.TensorData.from_numpy(np.ones(len(row) - 1, np.float32)),
            },
        )
        for row in rows
    ]


def timed(call: Callable[[], None]) -> float:
    """Milliseconds, median."""
    seconds: list[float] = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(seconds[1:])


def main() -> None:
    """Measures every shape with and without emptying the cache, then looks into one call's kernels."""
    weights, out = sys.argv[1:3]
    config = ModelConfig(
        model_name="profiled",
        model_path=Path(weights),
        max_model_len=4096,
        micro_batch_size=64,
        capabilities=["training"],
    )
    if not torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats = lambda device=None: None
    model = HFTrainingModel(config)
    asyncio.run(model.create_adapter("a", types.LoraConfig(rank=RANK)))
    empty_cache = torch.cuda.empty_cache
    found: list[dict[str, object]] = []
    shapes = [[length] * rows for rows, length in SHAPES] + [list(range(600, 1600, 100)), list(range(64, 704, 20))]
    for lengths in shapes if torch.cuda.is_available() else shapes[:2]:
        rows = data(lengths)

        def call(rows: list[types.Datum] = rows) -> None:
            asyncio.run(model.forward(rows, "a", "cross_entropy", None, backward=True))

        torch.cuda.empty_cache = empty_cache
        with_cache_emptied = timed(call)
        torch.cuda.empty_cache = lambda: None
        kept = timed(call)
        padded = len(lengths) * max(lengths)
        peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
        line: dict[str, object] = {
            "rows": len(lengths),
            "longest": max(lengths),
            "padded": padded,
            "ms": with_cache_emptied,
            "ms_cache_kept": kept,
            "us_per_padded_token": 1e3 * with_cache_emptied / padded,
            "peak_gb": peak,
        }
        found.append(line)
        print(json.dumps(line), flush=True)
        empty_cache()
    activity = torch.profiler.ProfilerActivity
    rows = data([512] * 32 if torch.cuda.is_available() else [32] * 2)
    with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as profile:
        asyncio.run(model.forward(rows, "a", "cross_entropy", None, backward=True))
    kernels = [
        {"name": event.key[:90], "ms": event.self_device_time_total / 1e3, "count": event.count}
        for event in sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)[:24]
    ]
    for kernel in kernels:
        print(f"{kernel['ms']:9.2f} ms {kernel['count']:6} x {kernel['name']}", flush=True)
    Path(out).write_text(json.dumps({"calls": found, "kernels": kernels}, indent=1))


if __name__ == "__main__":
    main()
