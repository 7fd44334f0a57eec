"""Masked NLL of rows under the weights that a backend holds, and early stopping."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.store.blobs.evaluations import RowLosses
from services.store.records import StepRecord
from services.trainer.backend import Backend, Logprobs, Pending
from services.trainer.batches.batching import cut
from services.trainer.batches.rows import Row
from services.trainer.batches.weighting import weighted_nll

CALLS_IN_FLIGHT = 4  #: enough to keep the server busy, few enough to be left quickly
ROWS_IN_MEMORY = 4_096  #: rows that are sorted and cut together


@dataclass(frozen=True, slots=True)
class Evaluation:
    """NLL over a set of rows, with unnormalized weights."""

    nll_sum: float  #: nats
    weight_sum: float
    target_bytes: int  #: UTF-8 bytes of the trained text
    losses: RowLosses  #: of each row

    @property
    def nll(self) -> float:
        """Return the NLL in nats per unit of weight."""
        return self.nll_sum / self.weight_sum


def evaluate(
    backend: Backend,
    rows: Sequence[Row],
    budget: int,
    keep_going: Callable[[], bool] = lambda: True,
    *,
    packs: bool = False,
) -> Evaluation | None:
    """Sum the NLL of all rows, in calls of at most `budget` tokens: padded ones, unless the server `packs`.

    Returns:
        The sums, or None when `keep_going` said no before the end. The sums don't depend on the order of rows.
    """
    nlls: list[float] = []  # in the order of calls, as the next two
    places: list[int] = []  # of the row in `rows`
    seen: list[tuple[int, float, int]] = []  # conversation, weight, bytes: a row is read from its file once
    in_flight: deque[tuple[Sequence[Row], Pending[Sequence[Logprobs]]]] = deque()
    for begin in range(0, len(rows), ROWS_IN_MEMORY):
        chunk = rows[begin : begin + ROWS_IN_MEMORY]
        order = sorted(range(len(chunk)), key=[-row.length for row in chunk].__getitem__)
        ordered = [chunk[place] for place in order]
        for members in cut(ordered, budget, packs=packs):
            if not keep_going():
                return None
            call = [ordered[member] for member in members]
            places += [begin + order[member] for member in members]
            seen += [(row.conversation, row.weight_sum, row.target_bytes) for row in call]
            in_flight.append((call, backend.forward(call)))
            if len(in_flight) >= CALLS_IN_FLIGHT:
                nlls.extend(_nlls(*in_flight.popleft()))
    while in_flight:
        nlls.extend(_nlls(*in_flight.popleft()))
    sorting = np.argsort(np.array(places, np.int64))
    losses = RowLosses(
        np.array([conversation for conversation, _, _ in seen], np.uint32)[sorting],
        np.array(nlls, np.float32)[sorting],
        np.array([weight for _, weight, _ in seen], np.float32)[sorting],
    )
    weight = math.fsum(weight for _, weight, _ in seen)
    return Evaluation(math.fsum(nlls), weight, sum(size for _, _, size in seen), losses)


def _nlls(rows: Sequence[Row], pending: Pending[Sequence[Logprobs]]) -> list[float]:
    return [weighted_nll(logprobs, row.target_weights) for row, logprobs in zip(rows, pending.result(), strict=True)]


def probe_nll(rows: Sequence[Row], logprobs: Sequence[Logprobs]) -> float:
    """Return the NLL of the probe rows, in nats per unit of weight."""
    nlls = [weighted_nll(one, row.target_weights) for row, one in zip(rows, logprobs, strict=True)]
    return math.fsum(nlls) / math.fsum(row.weight_sum for row in rows)


def noted(record: StepRecord, test: Evaluation | None) -> StepRecord:
    """Return the record of a step with its evaluation, if there was one."""
    if test is None:
        return record
    return replace(
        record, test_nll_sum=test.nll_sum, test_weight_sum=test.weight_sum, test_target_bytes=test.target_bytes
    )


@dataclass(slots=True)
class Patience:
    """Early stopping: ends a run after `limit` evaluations in a row that gained no more than `min_delta`."""

    limit: int  #: 0: never
    min_delta: float  #: nats per unit of weight
    best: float = math.inf  #: lowest NLL seen
    waited: int = 0  #: evaluations since

    def seen(self, nll: float) -> bool:
        """Record one more evaluation; return whether to stop."""
        if nll < self.best - self.min_delta:
            self.best, self.waited = nll, 0
        else:
            self.waited += 1
        return self.is_over

    @property
    def is_over(self) -> bool:
        """Return whether to stop after what was seen."""
        return 0 < self.limit <= self.waited
