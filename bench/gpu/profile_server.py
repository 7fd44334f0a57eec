"""What one forward_backward call costs inside TuFT, by its shape: its own model class, without HTTP, Ray and Turnloom.

    python -m bench.gpu.profile_server WEIGHTS OUT.json [calls,shapes,kernels]

Says where a call's time goes: per padded token, per call, for giving memory back to the driver (TuFT empties PyTorch's
cache after every call), for a shape that is new to the process, and in which kernels. It is what the budget of padded
tokens is chosen by. What PyTorch reads from the environment (TORCH_CUDNN_SDPA_DEPRIORITIZED, PYTORCH_CUDA_ALLOC_CONF)
is written down with it: one process each.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
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
NEW_SHAPES: Final = 16
MOST_PADDED: Final = 16_384  #: tokens of a call of a new shape
VARIABLES: Final = ("TORCH_CUDNN_SDPA_DEPRIORITIZED", "PYTORCH_CUDA_ALLOC_CONF")
RANK: Final = 16


def data(lengths: Sequence[int]) -> list[types.Datum]:
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


def once(call: Callable[[], None]) -> float:
    """Milliseconds of one call."""
    begun = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begun)


def timed(call: Callable[[], None]) -> float:
    """Milliseconds, median without the first call."""
    return statistics.median([once(call) for _ in range(ROUNDS)][1:])


class Profile:
    """One model of TuFT's with one adapter, and what was found of it."""

    def __init__(self, weights: Path) -> None:
        self._on_gpu = torch.cuda.is_available()
        if not self._on_gpu:
            torch.cuda.reset_peak_memory_stats = lambda device=None: None
        config = ModelConfig(
            model_name="profiled",
            model_path=weights,
            max_model_len=4096,
            micro_batch_size=64,
            capabilities=["training"],
        )
        self._model = HFTrainingModel(config)
        asyncio.run(self._model.create_adapter("a", types.LoraConfig(rank=RANK)))
        self._empty_cache = torch.cuda.empty_cache
        self.found: dict[str, object] = {name: os.environ.get(name, "") for name in VARIABLES}

    def _call(self, lengths: Sequence[int]) -> Callable[[], None]:
        rows = data(lengths)

        def call() -> None:
            asyncio.run(self._model.forward(rows, "a", "cross_entropy", None, backward=True))

        return call

    def calls(self) -> None:
        """Every shape with and without emptying the cache."""
        found: list[dict[str, object]] = []
        shapes = [[length] * rows for rows, length in SHAPES] + [list(range(600, 1600, 100)), list(range(64, 704, 20))]
        for lengths in shapes if self._on_gpu else shapes[:2]:
            call = self._call(lengths)
            with_cache_emptied = timed(call)
            torch.cuda.empty_cache = lambda: None
            kept = timed(call)
            torch.cuda.empty_cache = self._empty_cache
            padded = len(lengths) * max(lengths)
            found.append(
                {
                    "rows": len(lengths),
                    "longest": max(lengths),
                    "padded": padded,
                    "ms": with_cache_emptied,
                    "ms_cache_kept": kept,
                    "us_per_padded_token": 1e3 * with_cache_emptied / padded,
                    "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if self._on_gpu else 0.0,
                }
            )
            print(json.dumps(found[-1]), flush=True)
            self._empty_cache()
        self.found["calls"] = found

    def shapes(self) -> None:
        """The first call of a shape beside later ones of it, after two others that warm everything else up."""
        chance = np.random.default_rng(1)
        longest = [int(length) for length in chance.integers(200, 1_500, NEW_SHAPES + 2)]
        shapes = [(max(1, int(chance.integers(MOST_PADDED // 2, MOST_PADDED)) // length), length) for length in longest]
        if not self._on_gpu:
            shapes = [(2, 20 + number) for number in range(4)]
        for rows, length in shapes[:2]:
            timed(self._call([length] * rows))
        found: list[dict[str, float]] = []
        for rows, length in shapes[2:]:
            call = self._call([length] * rows)
            first = once(call)
            found.append({"rows": rows, "longest": length, "ms_first": first, "ms": timed(call)})
            print(json.dumps(found[-1]), flush=True)
        more = statistics.median(one["ms_first"] - one["ms"] for one in found)
        self.found |= {"new_shapes": found, "ms_more_for_a_new_shape": more}
        print(f"a new shape costs {more:.0f} ms more (median)", flush=True)

    def kernels(self) -> None:
        """The kernels of one call that take the most time."""
        activity = torch.profiler.ProfilerActivity
        call = self._call([512] * 32 if self._on_gpu else [32] * 2)
        call()
        with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as profile:
            call()
        kernels = [
            {"name": event.key[:90], "ms": event.self_device_time_total / 1e3, "count": event.count}
            for event in sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)[:24]
        ]
        for kernel in kernels:
            print(f"{kernel['ms']:9.2f} ms {kernel['count']:6} x {kernel['name']}", flush=True)
        self.found["kernels"] = kernels


def main() -> None:
    """Measures what the third argument names; everything without one."""
    weights, out = sys.argv[1:3]
    profile = Profile(Path(weights))
    for name in sys.argv[3].split(",") if len(sys.argv) > 3 else ("calls", "shapes", "kernels"):
        {"calls": profile.calls, "shapes": profile.shapes, "kernels": profile.kernels}[name]()
        Path(out).write_text(json.dumps(profile.found, indent=1))


if __name__ == "__main__":
    main()
