"""Order the conversations of a mixture of datasets: a pure function of datasets, weights, seed and epoch.

An epoch has as many conversations as all datasets hold together; `shares` says how many come from each. A dataset is
read pass after pass, each in an order of its own. It goes on in the next epoch where it stopped. With share q, a
dataset's k-th conversation of an epoch (from 0) stands at (k + 1/2) / q of it. So every stretch of an epoch has the
datasets in their shares. One dataset alone has its passes as epochs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.store.records import MixSums
from services.store.shards.shares import shares
from services.trainer.batches.rows import Row

Numbers = NDArray[np.int64]


def order_hash(seed: int, number: int, index: int) -> bytes:
    """Return the sort key that replaces a library's random stream: sha256 of "seed:number:index"."""
    return hashlib.sha256(f"{seed}:{number}:{index}".encode()).digest()


@dataclass(slots=True)
class Part:
    """The rows of one dataset, by conversation."""

    rows: Sequence[Row]  #: in source order, each with something to train; read when a batch needs them
    conversation_of: Sequence[int] | Numbers  #: conversation of each row
    weight: float = 1.0  #: relative to those of the other parts, > 0
    members: dict[int, list[int]] = field(init=False, repr=False)  #: conversation -> its row numbers
    _passes: dict[int, Numbers] = field(init=False, repr=False)  # the last two that were ordered

    def __post_init__(self) -> None:
        self.members, self._passes = {}, {}
        for number, conversation in enumerate(self.conversation_of):
            self.members.setdefault(int(conversation), []).append(number)

    def drawn(self, begin: int, end: int, seed: int) -> Numbers:
        """Return the conversations at places begin to end - 1 of all passes, one after the other."""
        size = len(self.members)
        found = [np.empty(0, np.int64)]
        while begin < end:
            number, place = divmod(begin, size)
            found.append(self._pass(number + 1, seed)[place : place + end - begin])
            begin += len(found[-1])
        return np.concatenate(found)

    def _pass(self, number: int, seed: int) -> Numbers:
        """Return all conversations in the order of pass `number` (from 1)."""
        if number not in self._passes:
            ordered = sorted(self.members, key=lambda index: order_hash(seed, number, index))
            last = list(self._passes.items())[-1:]
            self._passes = dict([*last, (number, np.array(ordered, np.int64))])
        return self._passes[number]


@dataclass(frozen=True, slots=True)
class Order:
    """The conversations of an epoch, in order."""

    part: NDArray[np.intp]  #: which dataset each is from
    conversation: Numbers

    def __len__(self) -> int:
        return len(self.part)


def order_of(parts: Sequence[Part], seed: int, epoch: int) -> Order:
    """Return the order of `epoch` (from 1)."""
    counts = shares([part.weight for part in parts], sum(len(part.members) for part in parts))
    place = np.concatenate([(np.arange(count) + 0.5) / count for count in counts if count])
    merged = np.argsort(place, kind="stable")  # of equal places the first dataset's comes first
    drawn = [part.drawn((epoch - 1) * count, epoch * count, seed) for part, count in zip(parts, counts, strict=True)]
    return Order(np.repeat(np.arange(len(parts)), counts)[merged], np.concatenate(drawn)[merged])


def sums_by_part(
    conversations: Sequence[int], rows: Sequence[Row], nlls: Sequence[tuple[int, float]]
) -> tuple[MixSums, ...]:
    """Return what a step trained of each dataset.

    Args:
        conversations: of each dataset.
        rows: of the step, in any order.
        nlls: of each row its dataset and its nats, in any order.
    """
    return tuple(
        MixSums(
            count,
            sum(row.length for row in rows if row.part == place),
            math.fsum(nll for part, nll in nlls if part == place),
            math.fsum(row.weight_sum for row in rows if row.part == place),
        )
        for place, count in enumerate(conversations)
    )
