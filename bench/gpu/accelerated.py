"""The accelerated training model beside TuFT's own code, inside the model's class: no HTTP, no Ray, no Turnloom.

    python -m bench.gpu.accelerated 0.6b|4b|tiny WEIGHTS OUT.jsonl [PHASE,...]

Phases: speed, stream, memory, losses, truth, gradients, tenants, passes, cards, kernels.

One model serves both: switched off, services.tuft hands every call to TuFT's own code. Steps are 32 rows of random
tokens with lengths as of no_robots, of which the first 35 % is prompt; each step is new to the process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.program import TUFT, WEIGHTS, libraries, need_file, usage

#: Padded tokens of a call, as the trainer cuts for stock.
STOCK_BUDGET: Final = {"tiny": 256, "0.6b": 16_384, "4b": 8_192}
PROGRAM: Final = usage("bench.gpu.accelerated", __doc__)
PROGRAM.add_argument("size", choices=sorted(STOCK_BUDGET))
PROGRAM.add_argument("weights", type=Path)
PROGRAM.add_argument("out", type=Path)
PROGRAM.add_argument("--after", type=Path, help="when ready, wait until this file is there")
PROGRAM.add_argument("--kept", type=float, help="of what torch.compile keeps: below 1 it recomputes")
PROGRAM.add_argument("phases", nargs="?", default="speed,losses,gradients,tenants,passes,cards,kernels")

with libraries(TUFT, __name__, PROGRAM):
    import numpy as np
    import torch
    from tinker import types
    from torch import Tensor
    from torch.nn.functional import cosine_similarity
    from tuft.config import ModelConfig

    from bench.gpu.figures import GEOMETRY, H200_BF16_FLOPS, lora_flops
    from bench.gpu.plain_fp32 import plain_loss, plain_model
    from bench.gpu.step_rows import GPU, Rows, one_call, rows_of, stock_calls
    from services.tuft import layers, memory
    from services.tuft.model import AcceleratedModel

os.environ.setdefault("TURNLOOM_TUFT_ACCELERATE", "always")
GUIDE_MICRO: Final = {"tiny": 4, "0.6b": 8, "4b": 4}  #: of the guide's loop; 16 takes 132 of 140 GB at 0.6B
CARDS: Final = (24, 48, 80)  #: GB
ADAM: Final = types.AdamParams(learning_rate=1e-4, beta1=0.9, beta2=0.95, eps=1e-8)


class Bench:
    """One model, its adapters, and where results go."""

    def __init__(self, size: str, weights: Path, out: Path) -> None:
        if not GPU:
            torch.cuda.reset_peak_memory_stats = lambda device=None: None
        self.size, self.weights, self.out = size, weights, out
        self.geometry = GEOMETRY[size]
        config = ModelConfig(
            model_name="m", model_path=weights, max_model_len=4096, micro_batch_size=64, capabilities=["training"]
        )
        begun = time.perf_counter()
        self.model: Any = AcceleratedModel(config)
        loaded = time.perf_counter()
        for name, rank in (("one", 16), ("two", 8)):
            asyncio.run(self.model.create_adapter(name, types.LoraConfig(rank=rank)))
        self.most = self.model.status.max_tokens_per_pass
        self.note(
            "model",
            torch=torch.__version__,
            load_seconds=loaded - begun,
            prepare_seconds=time.perf_counter() - loaded,
            status=self.model.status.as_json(),
        )
        if not self.model.status.accelerated:
            raise SystemExit("the model is not accelerated: there is nothing to compare")
        draw = torch.Generator().manual_seed(1)
        self.start: dict[str, list[Tensor]] = {}
        for name in ("one", "two"):
            with torch.no_grad():
                for one in self.parameters(name):
                    if not one.any():
                        one.copy_(torch.randn(one.shape, generator=draw) * 0.01)
            self.start[name] = [one.detach().clone() for one in self.parameters(name)]

    def note(self, kind: str, **fields: object) -> None:
        """One line of results, on disk at once."""
        line = json.dumps({"kind": kind, "size": self.size, **fields})
        with self.out.open("a") as file:
            file.write(line + "\n")
        print(line[:700], flush=True)

    def parameters(self, name: str = "one") -> list[Any]:
        """Of an adapter."""
        return [one for group in self.model.adapter_optimizer[name].param_groups for one in group["params"]]

    def reset(self) -> None:
        """Adapters and optimizers as at the start."""
        for name in ("one", "two"):
            with torch.no_grad():
                for one, first in zip(self.parameters(name), self.start[name], strict=True):
                    one.copy_(first)
                    one.grad = None
            self.model.adapter_optimizer[name] = torch.optim.AdamW(self.parameters(name))

    @contextmanager
    def serving(self, *, accelerated: bool, micro: int = 64, most: int = 0) -> Iterator[None]:
        """Which code answers, with which micro_batch_size and tokens of a pass."""
        self.model.status.accelerated, self.model.config.micro_batch_size = accelerated, micro
        self.model.status.max_tokens_per_pass = most or self.most
        try:
            yield
        finally:
            self.model.status.accelerated, self.model.status.max_tokens_per_pass = True, self.most

    def forward_backward(self, data: list[types.Datum], name: str = "one") -> types.ForwardBackwardOutput:
        """One call."""
        answer: types.ForwardBackwardOutput = asyncio.run(
            self.model.forward(data, name, "cross_entropy", None, backward=True)
        )
        return answer

    def train(self, sent: Sequence[list[types.Datum]], name: str = "one") -> float:
        """One step; returns its loss as the client sees it, from log-probabilities."""
        total = 0.0
        for data in sent:
            answer = self.forward_backward(data, name)
            for one, row in zip(answer.loss_fn_outputs, data, strict=True):
                weights = row.loss_fn_inputs["weights"].to_numpy().astype(np.float64)
                total -= float(one["logprobs"].to_numpy().astype(np.float64) @ weights)
        asyncio.run(self.model.optim_step(ADAM, name))
        return total

    def rows(self, step: int) -> Rows:
        """Of a step."""
        return rows_of(step, self.geometry.vocabulary)

    def stock(self, rows: Rows) -> list[list[types.Datum]]:
        """A step's calls for stock."""
        return stock_calls(rows, STOCK_BUDGET[self.size])

    # -- phases --------------------------------------------------------------------------------------------------------

    def measure(
        self, contenders: Mapping[str, tuple[Mapping[str, Any], Callable[[Rows], Any]]], rounds: int, steps: int
    ) -> None:
        """Interleaved rounds of new steps; medians."""
        times: dict[str, list[float]] = {name: [] for name in contenders}
        peaks = dict.fromkeys(contenders, 0.0)
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds + 1):  # the first one warms up
            for name, (how, cut) in contenders.items():
                self.reset()
                gc.collect()
                torch.cuda.empty_cache()
                with self.serving(**how):
                    self.timed(cut(self.rows(900)))  # stock gives all memory back, and both take turns here
                    for step in range(number * steps, (number + 1) * steps) if number else (901,):
                        rows = self.rows(step)
                        sent = cut(rows)
                        took, peak = self.timed(sent)
                        if number:
                            times[name].append(took)
                            rates[name].append(sum(len(one[1]) for one in rows) / took)
                            peaks[name] = max(peaks[name], peak)
        for name, seconds in times.items():
            lengths = [[len(one[1]) for one in self.rows(step)] for step in range(steps, (rounds + 1) * steps)]
            tokens, work = sum(map(sum, lengths)), sum(lora_flops(self.geometry, one) for one in lengths)
            by_round = [statistics.median(rates[name][n : n + steps]) for n in range(0, len(seconds), steps)]
            self.note(
                "speed",
                name=name,
                tokens_per_second=round(tokens / sum(seconds)),
                median_of_rounds=round(statistics.median(by_round)),
                rounds=[round(one) for one in by_round],
                ms_a_step=round(1e3 * sum(seconds) / len(seconds), 1),
                mfu=round(100 * work / sum(seconds) / H200_BF16_FLOPS, 2),
                peak_gb=round(peaks[name], 1),
            )

    def timed(self, sent: Sequence[list[types.Datum]]) -> tuple[float, float]:
        """Seconds of a step and its peak memory in GB, over all its calls: TuFT resets the statistic itself."""
        peak = 0.0
        if GPU:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        for data in sent:
            self.forward_backward(data)
            peak = max(peak, torch.cuda.max_memory_allocated() / 1e9) if GPU else 0.0
        asyncio.run(self.model.optim_step(ADAM, "one"))
        if GPU:
            torch.cuda.synchronize()
        return time.perf_counter() - begun, peak

    def speed(self) -> None:
        """Stock as the guide and the trainer use it; accelerated with the same calls, and with a step as one call."""
        self.measure(
            {
                "stock, the guide's calls": ({"accelerated": False, "micro": GUIDE_MICRO[self.size]}, one_call),
                "stock, the trainer's calls": ({"accelerated": False}, self.stock),
                "accelerated, the same calls": ({"accelerated": True}, self.stock),
                "accelerated, a step a call": ({"accelerated": True}, one_call),
            },
            rounds=3,
            steps=3,
        )

    def memory(self) -> None:
        """Peak memory of steps, stock beside accelerated; speed of few steps only."""
        self.measure(
            {
                "stock, the trainer's calls": ({"accelerated": False}, self.stock),
                "accelerated, a step a call": ({"accelerated": True}, one_call),
            },
            rounds=1,
            steps=2,
        )

    def stream(self) -> None:
        """Steps as the server runs them: the next one is launched while the GPU works on the last one.

        By turns as CUDA graphs, where the model records them, and kernel by kernel; each round has steps of its own.
        """
        graphs = self.model._graphs
        for number in range(6):
            self.model._graphs = graphs if number % 2 == 0 else None
            self._stream("as graphs" if number % 2 == 0 else "kernel by kernel", 200 + 24 * number)
        self.model._graphs = graphs

    def _stream(self, name: str, first: int) -> None:
        self.reset()
        steps = [one_call(self.rows(step)) for step in range(first, first + 24)]
        for sent in steps[:4]:
            self.timed(sent)
        if GPU:
            torch.cuda.synchronize()
        begun, used = time.perf_counter(), time.process_time()
        for sent in steps[4:]:
            for data in sent:
                self.forward_backward(data)
            asyncio.run(self.model.optim_step(ADAM, "one"))
        launched = time.process_time() - used
        if GPU:
            torch.cuda.synchronize()
        took = time.perf_counter() - begun
        tokens = sum(datum.model_input.length for sent in steps[4:] for data in sent for datum in data)
        status = self.model.status
        self.note(
            "stream", name=name, tokens_per_second=round(tokens / took), ms_a_step=round(1e3 * took / 20, 1),
            cpu_ms_a_step=round(1e3 * launched / 20, 1), graphs=status.graphs, replayed=status.replayed,
            peak_gb=round(torch.cuda.max_memory_allocated() / 1e9, 1) if GPU else None,
            reserved_gb=round(torch.cuda.memory_reserved() / 1e9, 1) if GPU else None,
        )  # fmt: skip

    def passes(self) -> None:
        """What the tokens of a pass do to speed and memory."""
        sizes = (8_192, 10_240, 16_384) if GPU else (64, 128)
        contenders: dict[str, tuple[dict[str, Any], Callable[[Rows], Any]]] = {
            f"passes of {most}": ({"accelerated": True, "most": most}, one_call) for most in sizes
        }
        self.measure(contenders, rounds=2, steps=3)

    def losses(self) -> list[float]:
        """20 steps of both from one start."""
        found: dict[str, list[float]] = {}
        for name, how, cut in (
            ("stock", {"accelerated": False}, self.stock),
            ("accelerated", {"accelerated": True}, one_call),
        ):
            self.reset()
            with self.serving(**how):
                found[name] = [self.train(cut(self.rows(step))) for step in range(20)]
            away = [abs(a / b - 1) for a, b in zip(found[name], found["stock"], strict=True)]
            self.note("losses", name=name, largest_from_stock=max(away), nats=found[name])
        return found["stock"]

    def truth(self) -> None:
        """The same 20 steps in fp32 through plain transformers and peft."""
        plain, own = plain_model(self.weights, self.start["one"])
        adam = torch.optim.AdamW(own, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
        found = []
        for step in range(20):
            found.append(sum(plain_loss(plain, row) for row in sorted(self.rows(step), key=lambda one: len(one[1]))))
            adam.step()
            adam.zero_grad()
        self.note("losses", name="fp32", nats=found)

    def gradients(self) -> None:
        """A step's gradient, 8 rows, beside fp32."""
        rows = self.rows(50)[:8]
        plain, own = plain_model(self.weights, self.start["one"])
        for row in rows:
            plain_loss(plain, row)
        exact = torch.cat([one.grad.flatten().double().cpu() for one in own])
        del plain, own
        gc.collect()
        torch.cuda.empty_cache()
        found: dict[str, Tensor] = {}
        for name, how, cut in (
            ("stock", {"accelerated": False}, self.stock),
            ("accelerated", {"accelerated": True}, one_call),
        ):
            self.reset()
            with self.serving(**how):
                for data in cut(rows):
                    self.forward_backward(data)
            found[name] = gradient = torch.cat([one.grad.flatten().double().cpu() for one in self.parameters()])
            self.note(
                "gradients",
                name=name,
                cosine_to_fp32=float(cosine_similarity(gradient, exact, 0)),
                error_to_fp32=float((gradient - exact).norm() / exact.norm()),
                cosine_to_stock=float(cosine_similarity(gradient, found["stock"], 0)),
            )

    def tenants(self) -> None:
        """Two adapters by turns; whoever is not trained must not move at all."""
        self.reset()
        untouched = True
        for step in range(3):
            for name, other in (("one", "two"), ("two", "one")):
                before = [one.detach().clone() for one in self.parameters(other)]
                self.train(one_call(self.rows(step)), name)
                untouched &= all(torch.equal(a, b) for a, b in zip(before, self.parameters(other), strict=True))
        self.note("tenants", others_unchanged=untouched, fallbacks=dict(self.model.status.fallbacks))

    def cards(self) -> None:
        """Smaller cards: PyTorch may use so much only. Pass size as found there, then steps, and what ran out."""
        if not GPU:
            return
        total = torch.cuda.get_device_properties(0).total_memory
        parameters = sum(one.numel() for one in self.model.causal_lm.parameters())
        for size in CARDS:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(min(1.0, size * 1e9 / total))
            self.model.status.out_of_memory_splits = 0
            try:
                asyncio.run(self.model.create_adapter("turnloom-self-test", types.LoraConfig(rank=16)))
                most = memory.fitting(self.model._probe, self.model.device, parameters)
                with self.serving(accelerated=True, most=most):
                    took, peaks = zip(*(self.timed(one_call(self.rows(step))) for step in range(60, 64)), strict=True)
                    after = self.model.status.max_tokens_per_pass
                self.note(
                    "card", gb=size, most=most, most_after=after, splits=self.model.status.out_of_memory_splits,
                    ms=[round(1e3 * one) for one in took], peak_gb=[round(one, 1) for one in peaks],
                )  # fmt: skip
            except torch.OutOfMemoryError as error:
                self.note("card", gb=size, error=str(error)[:200])
            finally:
                asyncio.run(self.model.remove_adapter("turnloom-self-test"))
                torch.cuda.set_per_process_memory_fraction(1.0)

    def kernels(self) -> None:
        """Time on the GPU and launches of one accelerated step."""
        activity = torch.profiler.ProfilerActivity
        sent = one_call(self.rows(70))
        self.timed(sent)
        wall = statistics.median(self.timed(sent)[0] for _ in range(3))
        with torch.profiler.profile(activities=[activity.CPU, activity.CUDA] if GPU else [activity.CPU]) as profile:
            self.timed(sent)
        found = [one for one in profile.key_averages() if str(one.device_type).endswith("CUDA")]
        host = sorted(profile.key_averages(), key=lambda one: -one.self_cpu_time_total)[:25]
        top = sorted(found, key=lambda one: -one.self_device_time_total)[:30]
        self.note(
            "kernels",
            wall_ms=round(1e3 * wall, 1),
            gpu_ms=round(sum(one.self_device_time_total for one in found) / 1e3, 1),
            launches=sum(one.count for one in found),
            host=[[round(one.self_cpu_time_total / 1e3, 2), one.count, one.key[:80]] for one in host],
            top=[[round(one.self_device_time_total / 1e3, 2), one.count, one.key[:80]] for one in top],
        )


def main() -> None:
    """Run the named phases; one that fails does not cost the others."""
    arguments = PROGRAM.parse_args()
    need_file(arguments.weights, WEIGHTS)
    layers.KEPT = layers.KEPT if arguments.kept is None else arguments.kept
    bench = Bench(arguments.size, arguments.weights, arguments.out)
    while arguments.after and not arguments.after.exists():
        time.sleep(0.2)
    for name in arguments.phases.split(","):
        begun = time.perf_counter()
        try:
            getattr(bench, name)()
        except Exception as error:
            bench.note("failed", phase=name, error=f"{type(error).__name__}: {error}"[:500])
        memory.release()  # what a failed phase left
        bench.note("phase", name=name, seconds=round(time.perf_counter() - begun, 1))


if __name__ == "__main__":
    main()
