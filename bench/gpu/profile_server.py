"""What one forward_backward call costs inside TuFT, by its shape: its own model class, without HTTP, Ray and Turnloom.

    python -m bench.gpu.profile_server WEIGHTS OUT.json [calls,parts,shapes,steps,kernels] [--wait]

Says where a call's time goes: per padded token, per call, for giving memory back to the driver (TuFT empties PyTorch's
cache after every call), for a shape that is new to the process, and in which kernels; and what whole steps take, cut as
the guide does and as the trainer does. It is what the trainer's constants are chosen by. What PyTorch reads from the
environment (TORCH_CUDNN_SDPA_DEPRIORITIZED, PYTORCH_CUDA_ALLOC_CONF) is written down with it: one process each.
With --wait it loads the model, prints "loaded" and waits for a line before it measures.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from bench.program import TUFT, WEIGHTS, libraries, need_file, usage

PROGRAM: Final = usage("bench.gpu.profile_server", __doc__)
PROGRAM.add_argument("weights", type=Path)
PROGRAM.add_argument("out", type=Path)
PROGRAM.add_argument("phases", nargs="?", default="calls,parts,shapes,steps,kernels")
PROGRAM.add_argument("--micro", default="4,8,16", help="micro_batch_sizes of the guide's loop")
PROGRAM.add_argument("--wait", action="store_true", help="load, then wait for a line on stdin")

with libraries(TUFT, __name__, PROGRAM):
    import numpy as np
    import torch
    from tinker import types
    from tuft.backends.hf_training_model import HFTrainingModel
    from tuft.config import ModelConfig

    from services.trainer.batches.batching import calls, filled, longest_first
    from services.trainer.batches.rows import Row

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
STEP_ROWS: Final = 32
STEPS: Final = 3
PART_SHAPES: Final = ((16, 64), (16, 256), (16, 512))  #: rows and their length
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


def step_lengths(number: int) -> list[int]:
    """Lengths of a step's rows, in random order: as of no_robots, mean about 400, p95 about 1,090, at most 2,047."""
    chance = np.random.default_rng(100 + number)
    return [int(length) for length in np.minimum(2_047, np.exp(chance.normal(5.75, 0.72, STEP_ROWS)))]


def cut(lengths: Sequence[int], *, few_shapes: bool) -> list[list[int]]:
    """The calls that the trainer would make of rows with so many targets; of few shapes: filled up as it does."""
    rows = [Row(0, np.zeros(length + 1, np.int32), np.ones(length, np.float32), 0) for length in lengths]
    made = [[row.length - 1 for row in call] for call in calls(longest_first(rows), MOST_PADDED, few_shapes=few_shapes)]
    return [[filled(call[0])] * len(call) for call in made] if few_shapes else made


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
            with patch.object(torch.cuda, "empty_cache", lambda: None):
                kept = timed(call)
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
            torch.cuda.empty_cache()
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

    def parts(self) -> None:
        """Where the wall time of a call goes: its inputs, launching, waiting, its answer, giving memory back."""
        found: list[dict[str, float]] = []
        for rows, length in PART_SHAPES if self._on_gpu else ((2, 8),):
            call = self._call([length] * rows)
            once(call)
            with self._watched() as spent:
                for _ in range(ROUNDS):
                    spent["all"] += once(call)
            found.append({"rows": rows, "longest": length, **{name: ms / ROUNDS for name, ms in spent.items()}})
            print(json.dumps({name: round(value, 1) for name, value in found[-1].items()}), flush=True)
        self.found["parts"] = found

    @contextmanager
    def _watched(self) -> Iterator[defaultdict[str, float]]:
        """Adds up the milliseconds that the steps of a call take in Python; work on the GPU goes on meanwhile."""
        spent: defaultdict[str, float] = defaultdict(float)

        def timed_as(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def timed_call(*args: object, **kwargs: object) -> object:
                begun = time.perf_counter()
                try:
                    return function(*args, **kwargs)
                finally:
                    spent[name] += 1e3 * (time.perf_counter() - begun)

            return timed_call

        model: Any = self._model
        watched: list[tuple[Any, str]] = [
            (model, "_activate_adapter"),
            (model, "_prepare_loss_fn_inputs"),
            (model, "_compute_logprobs_from_target_tokens"),
            (model, "_unpad_tensor"),
            (model.model, "forward"),
            (torch.Tensor, "item"),
            (torch.Tensor, "backward"),
            (torch.Tensor, "cpu"),
            (types.TensorData, "from_torch"),
            (torch.cuda, "empty_cache"),
        ]
        with ExitStack() as patches:
            for owner, name in watched:
                patches.enter_context(patch.object(owner, name, timed_as(name, getattr(owner, name))))
            yield spent

    def steps(self, micro_batch_sizes: Sequence[int]) -> None:
        """Whole steps, each of rows that no step before had, and again: the guide's loop and the trainer's calls."""
        takes: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for number in range(STEPS + 1 if self._on_gpu else 2):  # the first one only warms up
            lengths = step_lengths(number)
            if not self._on_gpu:
                lengths = [2 + length // 64 for length in lengths]
            contenders: list[tuple[str, int, list[list[int]]]] = [
                (f"guide micro {micro}", micro, [lengths]) for micro in micro_batch_sizes
            ]
            bare = cut(lengths, few_shapes=False)
            contenders.append(("cheapest calls", 64, bare))
            contenders.append(("cheapest calls, even", 64, [[max(call)] * len(call) for call in bare]))
            contenders.append(("turnloom", 64, cut(lengths, few_shapes=True)))
            for name, micro, sent in contenders:
                try:
                    first = self._step(micro, sent)
                    again = self._step(micro, sent) if number else first
                except torch.OutOfMemoryError as error:
                    print(f"{name}: {str(error)[:120]}", flush=True)
                    continue
                if number:
                    takes[name].append((first, again))
        found = []
        for name, times in takes.items():
            first, again = (statistics.median(one[which] for one in times) for which in (0, 1))
            found.append({"name": name, "ms_first": first, "ms_again": again, "all": times})
            print(f"{name:18} {first:7.0f} ms, again {again:7.0f} ms", flush=True)
        self.found["steps"] = found

    def _step(self, micro_batch_size: int, sent: Sequence[Sequence[int]]) -> float:
        self._model.config.micro_batch_size = micro_batch_size
        calls_of_step = [self._call(lengths) for lengths in sent]

        def step() -> None:
            for call in calls_of_step:
                call()
            asyncio.run(self._model.optim_step(types.AdamParams(learning_rate=1e-5), "a"))

        return once(step)

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
    """Measures what is named; everything without a name."""
    arguments = PROGRAM.parse_args()
    need_file(arguments.weights, WEIGHTS)
    profile = Profile(arguments.weights)
    if arguments.wait:
        print("loaded", flush=True)
        input()
    phases: dict[str, Callable[[], None]] = {
        "calls": profile.calls,
        "parts": profile.parts,
        "shapes": profile.shapes,
        "steps": lambda: profile.steps([int(size) for size in arguments.micro.split(",")]),
        "kernels": profile.kernels,
    }
    for name in arguments.phases.split(","):
        phases[name]()
        arguments.out.write_text(json.dumps(profile.found, indent=1))


if __name__ == "__main__":
    main()
