"""Estimate how much of the difference of two runs' test NLLs is noise.

By example, where both runs recorded each test example's loss. The runs are compared on the same conversations, so the
difficulty they share cancels. NLL is a ratio of sums, l / w over conversations. The difference of two such ratios has,
to first order (the delta method; Cochran, "Sampling Techniques", 3rd ed., 1977, sections 2.11 and 6.4), the variance of
the mean of

    z[i] = (l1[i] - R1 w1[i]) / mean(w1) - (l2[i] - R2 w2[i]) / mean(w2),     R = sum(l) / sum(w)

so its standard error is sqrt(sum(z^2) / (n (n - 1))). Examples cut from one conversation are alike, so a conversation
is one observation.

By evaluations, for runs without that record. The noise is how much the two test NLLs jump against each other from
evaluation to evaluation. For the differences d at the evaluations of the run's second half,

    noise = sqrt(mean((d[i-1] - 2 d[i] + d[i+1])^2) / 6)

is the standard deviation of d where d is a straight line plus independent noise. It is more where the line bends. (The
second difference of such noise has six times its variance.) It does not cover the choice of test examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from turnloom.results.runs import Run
from turnloom.wire.evaluations import Evaluation

TIE: Final = 2.0  #: times the noise
MIN_EVALUATIONS: Final = 3  #: that a noise can be taken from
SAME: Final = 1e-4  #: relative; a record whose NLL is farther from the ledger's is not of that evaluation


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise in the difference of two test NLLs."""

    size: float  #: nats per unit of weight: the standard error, or how far it jumps
    conversations: int  #: that were compared one by one; 0: taken from evaluations

    def hides(self, difference: float) -> bool:
        """Return whether a difference of this size is within the noise."""
        return abs(difference) <= TIE * self.size


def between(one: Run, other: Run) -> Noise | None:
    """Estimate the noise of the difference of two runs' last test NLLs; None: too little data."""
    if one.tested_on == other.tested_on and (first := _known(one)) and (second := _known(other)):
        found = by_example(first, second)
        if found is not None:
            return found
    size = by_evaluations(one, other)
    return None if size is None else Noise(size, 0)


def _known(run: Run) -> Evaluation | None:
    """Return the run's losses by example at its last evaluation, if they match the ledger's sums."""
    test = run.test
    losses = run.losses.get(test[-1][0]) if test else None
    if losses is None or not len(losses.nll_sum):
        return None
    nll = losses.nll_sum.sum(dtype=np.float64) / losses.weight_sum.sum(dtype=np.float64)
    return losses if math.isclose(nll, test[-1][1], rel_tol=SAME) else None


def by_example(one: Evaluation, other: Evaluation) -> Noise | None:
    """Return the standard error of NLL(one) - NLL(other); None: fewer than two conversations."""
    names = np.union1d(one.conversation, other.conversation)
    if len(names) < 2:
        return None
    z = _influence(one, names) - _influence(other, names)
    error = math.sqrt(float(z @ z) / (len(names) * (len(names) - 1)))
    return Noise(error, len(names))


def _influence(losses: Evaluation, names: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return (l - R w) / mean(w) by conversation; 0 for one that this run left out."""
    places = np.searchsorted(names, losses.conversation)
    nll = np.bincount(places, losses.nll_sum.astype(np.float64), len(names))
    weight = np.bincount(places, losses.weight_sum.astype(np.float64), len(names))
    ratio = nll.sum() / weight.sum()
    influence: NDArray[np.float64] = (nll - ratio * weight) / weight.mean()
    return influence


def by_evaluations(one: Run, other: Run) -> float | None:
    """Return the standard deviation of the runs' test NLL difference, nats; None: too few common evaluations."""
    first, second = dict(one.test), dict(other.test)
    steps = sorted(first.keys() & second.keys())
    half = [step for step in steps if steps and step >= steps[-1] / 2]
    used = half if len(half) >= MIN_EVALUATIONS else steps[1:]
    if len(used) < MIN_EVALUATIONS:
        return None
    apart = [first[step] - second[step] for step in used]
    bends = [a - 2 * b + c for a, b, c in zip(apart, apart[1:], apart[2:], strict=False)]
    return math.sqrt(sum(bend * bend for bend in bends) / len(bends) / 6)
