"""Choose the rows of each optimizer step and cut them into calls: a pure function of dataset, seed and step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from services.trainer.batches.mixing import Order, Part, order_of
from services.trainer.batches.rows import Row

SAFE_CALL_TOKENS = 4_096  #: tokens of a call at step 1; small enough for any GPU that holds the model
MOST_CALL_TOKENS = 16_384  #: padded tokens; larger calls were slower on an H200, at 0.6B and at 4B parameters
CALL_OVERHEAD = 4_000  #: padded tokens that take as long as an empty call: on an H200 at 0.6B parameters; 2,600 at 4B
LENGTH_BITS = 3  #: binary digits of a call's length after the first: 8 lengths between powers of two
COUNT_BITS = 1  #: the same of its number of rows: 1, 2, 3, 4, 6, 8, 12, 16, 24, ...
STEPS_PER_DOUBLING = 10  #: steps that must succeed before a call may double
PASSES_PER_CALL = 4  #: of a server that packs: it parts a call into passes that fit, so that a step can be one call
PACKED_STEPS_PER_DOUBLING = 2  #: the same where the server packs: a pass that does not fit it halves itself


@dataclass(frozen=True, slots=True)
class Position:
    """A position in the data, where the next step begins. Checkpoints store it as their cursor."""

    epoch: int  #: from 1
    position: int  #: conversations of that epoch already trained


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows that one optimizer step trains on."""

    step: int  #: 1 for the first step of the job
    epoch: int  #: from 1
    conversations: int  #: whole conversations in it
    rows: Sequence[Row]  #: longest first, so that neighbours are padded least
    by_part: tuple[int, ...]  #: conversations of each dataset of the mixture; of one dataset all


@dataclass(slots=True)
class Batches:
    """All steps of a job over one dataset, or a mixture of several (mixing.py), with random access."""

    parts: Sequence[Part]  #: one a dataset, each with something to train
    batch_size: int  #: conversations per step, >= 1
    seed: int  #: of the order
    _order: tuple[int, Order] | None = field(init=False, repr=False, default=None)  # the last epoch and its order

    @property
    def conversations(self) -> int:
        """Return the number of conversations with something to train, which is that of an epoch."""
        return sum(len(part.members) for part in self.parts)

    @property
    def steps_per_epoch(self) -> int:
        """Return the steps of one epoch, including a last, smaller batch."""
        return -(-self.conversations // self.batch_size)

    def order(self, epoch: int) -> Order:
        """Return the conversations in the order of `epoch` (from 1). The last epoch's order is cached."""
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, order_of(self.parts, self.seed, epoch))
        return self._order[1]

    def batch(self, step: int) -> Batch:
        """Return the batch of optimizer step `step` (from 1)."""
        earlier_epochs, number = divmod(step - 1, self.steps_per_epoch)
        epoch = earlier_epochs + 1
        order = self.order(epoch)
        chosen = slice(number * self.batch_size, (number + 1) * self.batch_size)
        parts = order.part[chosen].tolist()
        rows: list[Row] = []
        for place, conversation in zip(parts, order.conversation[chosen].tolist(), strict=True):
            part = self.parts[place]
            found = (part.rows[row] for row in part.members[conversation])
            rows += (replace(row, part=place) for row in found) if place else found
        by_part = tuple(parts.count(place) for place in range(len(self.parts)))
        return Batch(step, epoch, len(parts), longest_first(rows), by_part)

    def cursor(self, steps: int) -> Position:
        """Return the position in the data after `steps` steps."""
        epochs, number = divmod(steps, self.steps_per_epoch)
        return Position(epochs + 1, number * self.batch_size)


def longest_first(rows: Iterable[Row]) -> list[Row]:
    """Sort rows by falling length; equal lengths keep their order."""
    return sorted(rows, key=lambda row: -row.length)


def filled(targets: int) -> int:
    """Round the targets of a call's longest row up to a number of few digits. Its rows are padded to that length.

    1 to 16 as they are, then 18, 20, ..., 32, 36, ..., 64, 72, ...: at most an eighth more.
    """
    return _of_few_digits(targets, LENGTH_BITS)


def calls(
    rows: Sequence[Row], budget: int, overhead: int = CALL_OVERHEAD, *, few_shapes: bool = True
) -> Iterator[Sequence[Row]]:
    """Cut rows (longest first) into calls of at most `budget` padded tokens: rows times the targets of the longest.

    The cut is the cheapest possible, where a call costs its padded tokens plus `overhead`. Filling every call to the
    budget would pad short rows to the length of long ones. Gradients of several calls add up exactly, so the cut never
    changes what is in a step. A row longer than the budget is a call of its own.

    With `few_shapes` a call has `filled` targets and 1, 2, 3, 4, 6, 8, 12, ... rows, or all there are. Some GPU
    libraries (cuDNN's attention) plan each new shape. This limits them to some dozen shapes, instead of new ones at
    every step.
    """
    costs = [0.0] + [math.inf] * len(rows)  # of the first rows, cut best
    begins = [0] * (len(rows) + 1)  # where the last call of that cut begins
    counts: Sequence[int] = range(1, len(rows) + 1)
    if few_shapes:
        counts = [count for count in counts if count in (_of_few_digits(count, COUNT_BITS), len(rows))]
    for begin, row in enumerate(rows):
        longest = filled(row.length - 1) if few_shapes else row.length - 1
        for count in counts:
            end = begin + count
            if end > len(rows) or (count > 1 and count * longest > budget):
                break
            cost = costs[begin] + overhead + count * longest
            if cost < costs[end]:
                costs[end], begins[end] = cost, begin
    ends = [len(rows)]
    while ends[-1]:
        ends.append(begins[ends[-1]])
    for begin, end in itertools.pairwise(reversed(ends)):
        yield rows[begin:end]


def packed(rows: Sequence[Row], budget: int) -> list[list[int]]:
    """Cut rows (longest first) into few calls of at most `budget` real targets, for a server that pads nothing.

    Each row goes into the first call that still has room for it. A row longer than the budget is a call of its own.

    Returns:
        Places in `rows`, call by call.
    """
    members: list[list[int]] = []
    room: list[int] = []
    for place, row in enumerate(rows):
        targets = row.length - 1
        call = next((call for call, left in enumerate(room) if targets <= left), len(room))
        if call == len(room):
            members.append([])
            room.append(budget)
        members[call].append(place)
        room[call] -= targets
    return members


def cut(rows: Sequence[Row], budget: int, *, packs: bool) -> list[Sequence[int]]:
    """Cut rows (longest first) into calls as the server computes them: end to end if it `packs`, else padded.

    Returns:
        Places in `rows`, call by call; each place once.
    """
    if packs:
        return list(packed(rows, budget))
    ends = itertools.accumulate((len(call) for call in calls(rows, budget)), initial=0)
    return [range(begin, end) for begin, end in itertools.pairwise(ends)]


def _of_few_digits(number: int, bits: int) -> int:
    """Return the smallest number >= `number` with at most 1 + `bits` binary digits before its zeros."""
    unit = 1 << max(0, (number - 1).bit_length() - bits - 1)
    return -(-number // unit) * unit


def call_tokens(step: int, ceiling: int, *, packs: bool = False) -> int:
    """Return the tokens per call at `step`: from a safe start up to `ceiling`. Padding counts, unless the server packs.

    It depends on the step alone, so that a resumed run cuts its calls as the uninterrupted one did.
    """
    steps_per_doubling = PACKED_STEPS_PER_DOUBLING if packs else STEPS_PER_DOUBLING
    doublings = min((step - 1) // steps_per_doubling, 30) if step > 0 else 0
    return min(SAFE_CALL_TOKENS << doublings, ceiling)
