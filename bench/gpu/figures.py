"""What the numbers of a GPU run mean: shares of time, FLOPs, differences. Pure; knows no process and no GPU."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

H200_BF16_FLOPS: Final = 989e12  #: dense, from NVIDIA's datasheet


@dataclass(frozen=True, slots=True)
class Geometry:
    """A Qwen3 model as far as its cost goes."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int = 151_936

    @property
    def matrix_parameters(self) -> int:
        """Weights that every token is multiplied with; the (tied) output head counts, looking up embeddings doesn't."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.hidden * self.vocabulary


GEOMETRY: Final = {
    "tiny": Geometry(layers=2, hidden=64, intermediate=128, heads=4, kv_heads=2, head_dim=16),
    "0.6b": Geometry(layers=28, hidden=1024, intermediate=3072, heads=16, kv_heads=8, head_dim=128),
    "4b": Geometry(layers=36, hidden=2560, intermediate=9728, heads=32, kv_heads=8, head_dim=128),
    "8b": Geometry(layers=36, hidden=4096, intermediate=12288, heads=32, kv_heads=8, head_dim=128),
}


def lora_flops(geometry: Geometry, lengths: Iterable[int]) -> float:
    """FLOPs that training a LoRA adapter on these rows needs, without padding and without recomputation.

    2 per weight and token forward, 2 backward to the activations (the base's own gradients are not computed), and for
    causal attention 2 * 2 * n^2 / 2 * heads * head_dim per layer forward, twice that backward.
    """
    total = 0.0
    for length in lengths:
        attention = 2.0 * length * length * geometry.heads * geometry.head_dim * geometry.layers
        total += 4.0 * geometry.matrix_parameters * length + 3.0 * attention
    return total


def busy_seconds(spans: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """Seconds of [begin, end] in which at least one span is open."""
    busy, reached = 0.0, begin
    for start, stop in sorted(spans):
        counted_to = min(stop, end)
        if counted_to > max(start, reached):
            busy += counted_to - max(start, reached)
            reached = counted_to
    return busy


def paired(events: Iterable[tuple[float, str, str]], end: float) -> list[tuple[float, float]]:
    """Spans of requests: (time, "enqueued" | "completed" | "failed", id); one that never ended lasts until `end`."""
    opened: dict[str, float] = {}
    spans: list[tuple[float, float]] = []
    for time, what, request in events:
        if what == "enqueued":
            opened[request] = time
        elif request in opened:
            spans.append((opened.pop(request), time))
    return spans + [(start, end) for start in opened.values()]


def mean_between(samples: Iterable[tuple[float, float]], begin: float, end: float) -> float | None:
    """Mean of samples (time, value) within [begin, end]; None without any."""
    values = [value for time, value in samples if begin <= time <= end]
    return statistics.fmean(values) if values else None


def largest_relative_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of two series, step by step, over the steps that both have."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=False))


def together_rate(times: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]]) -> float:
    """Tokens a second of several runs in the time in which all of them trained.

    Args:
        times: of each run the ends of its steps, ascending.
        tokens: of each run the tokens of those steps.

    Raises:
        ValueError: there was no such time.
    """
    begin, end = max(run[0] for run in times), min(run[-1] for run in times)
    if end <= begin:
        raise ValueError("the runs did not train at the same time")
    inside = [
        size
        for run, sizes in zip(times, tokens, strict=True)
        for at, size in zip(run, sizes, strict=True)
        if begin < at <= end
    ]
    return sum(inside) / (end - begin)


def series_is_continuous(steps: Sequence[int], planned: int) -> bool:
    """Whether steps 1..planned are there, each once and in order."""
    return list(steps) == list(range(1, planned + 1))


def medians(rows: Iterable[Mapping[str, float | None]]) -> dict[str, float]:
    """Median of every key that has a value somewhere."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if value is not None:
                values.setdefault(key, []).append(value)
    return {key: statistics.median(found) for key, found in values.items()}
