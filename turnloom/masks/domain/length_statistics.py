"""Token counts and length histograms of preprocessed examples, gathered one conversation at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from turnloom.masks.domain.example import PreprocessedConversation

#: Exclusive upper bounds of all buckets but the last, the same for every dataset, so that histograms can be added.
EDGES: Final = tuple(2**power for power in range(4, 18))


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many examples have which size. Bucket i counts sizes < edges[i] that no earlier bucket counted."""

    edges: Sequence[int]
    counts: Sequence[int]  #: len(edges) + 1, the last bucket is open
    minimum: int  #: 0 where there are no examples, as all below
    maximum: int
    mean: float
    p50: int  #: the smallest size that at least half of the examples do not exceed
    p95: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Totals and histograms of a dataset."""

    conversations: int
    examples: int
    tokens: int
    loss_tokens: int  #: targets with weight > 0
    target_bytes: int  #: UTF-8 bytes of the trained text
    truncated_examples: int
    truncated_tokens: int
    truncated_loss_tokens: int
    unchecked_examples: int  #: whose ids were not compared with the text
    lengths: Histogram  #: tokens per example
    loss_lengths: Histogram  #: trained tokens per example


class Statistics:
    """Sizes added one conversation at a time; memory grows only with the number of different sizes."""

    def __init__(self) -> None:
        self._lengths: Counter[int] = Counter()
        self._loss_lengths: Counter[int] = Counter()
        self._conversations = self._target_bytes = 0
        self._truncated_examples = self._truncated_tokens = self._truncated_loss_tokens = 0
        self._unchecked_examples = 0

    def add(self, preprocessed: PreprocessedConversation) -> None:
        """Count one conversation's examples."""
        self._conversations += 1
        self._unchecked_examples += preprocessed.unchecked
        for example in preprocessed.examples:
            self._lengths[len(example.token_ids)] += 1
            self._loss_lengths[sum(length for length, weight in example.weight_runs if weight > 0)] += 1
            self._target_bytes += example.target_bytes
            self._truncated_examples += example.truncated_tokens > 0
            self._truncated_tokens += example.truncated_tokens
            self._truncated_loss_tokens += example.truncated_loss_tokens

    def summary(self) -> Summary:
        """Return the totals so far."""
        return Summary(
            conversations=self._conversations,
            examples=self._lengths.total(),
            tokens=_total(self._lengths),
            loss_tokens=_total(self._loss_lengths),
            target_bytes=self._target_bytes,
            truncated_examples=self._truncated_examples,
            truncated_tokens=self._truncated_tokens,
            truncated_loss_tokens=self._truncated_loss_tokens,
            unchecked_examples=self._unchecked_examples,
            lengths=_histogram(self._lengths),
            loss_lengths=_histogram(self._loss_lengths),
        )


def _total(sizes: Counter[int]) -> int:
    return sum(size * count for size, count in sizes.items())


def _histogram(sizes: Counter[int]) -> Histogram:
    counts = [0] * (len(EDGES) + 1)
    for size, count in sizes.items():
        counts[next((bucket for bucket, edge in enumerate(EDGES) if size < edge), len(EDGES))] += count
    return Histogram(
        edges=EDGES,
        counts=counts,
        minimum=min(sizes, default=0),
        maximum=max(sizes, default=0),
        mean=_total(sizes) / sizes.total() if sizes else 0.0,
        p50=_quantile(sizes, 0.50),
        p95=_quantile(sizes, 0.95),
    )


def _quantile(sizes: Counter[int], share: float) -> int:
    seen = 0
    for size in sorted(sizes):
        seen += sizes[size]
        if seen >= share * sizes.total():
            return size
    return 0
