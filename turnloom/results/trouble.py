"""Find what went wrong in one run from its curves: divergence, instability, overfitting."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from turnloom.client import TERMINAL
from turnloom.results.runs import Run

RISE: Final = 1.05  #: times the earlier NLL that counts as a rise


class TroubleKind(StrEnum):
    """Kinds of trouble, worst first."""

    DIVERGED = "diverged"  #: ends above where it began, or in a number that is not finite
    UNSTABLE = "unstable"  #: NLL rose, of test and train together, before it fell or went on
    OVERFITTED = "over-fitted"  #: test NLL ends above its lowest while train NLL went on falling


@dataclass(frozen=True, slots=True)
class Trouble:
    """One finding."""

    kind: TroubleKind
    step: int  #: where it shows first; for over-fitting the step of the lowest test NLL
    reason: str  #: a sentence's end: "its test NLL ..."


def trouble_of(run: Run) -> Trouble | None:
    """Return the worst trouble in the curves; None: none. Without evaluations, only the job's error counts."""
    if run.job.error.code == "NON_FINITE_LOSS":
        step = run.job.progress.step + 1
        return Trouble(TroubleKind.DIVERGED, step, f"its loss was no finite number at step {step}")
    test = run.test
    if len(test) < 2 or run.job.state not in TERMINAL:
        return None
    start, last = test[0][1], test[-1][1]
    if last > start:
        above = len(test) - 1
        while above > 1 and test[above - 1][1] > start:
            above -= 1
        return Trouble(
            TroubleKind.DIVERGED,
            test[above][0],
            f"its test NLL is above that of step {test[0][0]} ({start:.4f}) from step {test[above][0]} on,"
            f" and {last:.4f} at the end",
        )
    if test[1][1] > RISE * start:
        step, risen = test[1]
        return Trouble(
            TroubleKind.UNSTABLE,
            step,
            f"its test NLL rose from {start:.4f} before training to {risen:.4f} at first",
        )
    means = [run.mean_train(before[0], after[0]) for before, after in itertools.pairwise(test)]
    for index in range(2, len(test)):
        (earlier, before), (step, now) = test[index - 1 : index + 1]
        train_before, train_now = means[index - 2], means[index - 1]
        if train_before is None or train_now is None:
            continue
        if now > RISE * before and train_now > RISE * train_before:
            return Trouble(
                TroubleKind.UNSTABLE,
                step,
                f"between steps {earlier} and {step} its test NLL rose from {before:.4f} to {now:.4f}, and its train"
                " NLL rose with it",
            )
    step, lowest = min(test, key=lambda point: point[1])
    last_mean, then = means[-1], run.mean_train(0, step)
    if last > RISE * lowest and last_mean is not None and then is not None and last_mean < then:
        return Trouble(
            TroubleKind.OVERFITTED,
            step,
            f"its test NLL was lowest at step {step} ({lowest:.4f}) and is {last:.4f} at the end, while its train NLL"
            " went on falling",
        )
    return None
