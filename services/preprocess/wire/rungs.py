"""From CreateSweepRequest to the rungs of successive halving: where cells are compared and how many go on.

Jamieson & Talwalkar (AISTATS 2016): with eta, n / eta, n / eta^2, ... of n cells go on, until one is left. Each round
trains eta times as far as the one before it. A rung has to be a step at which every cell is evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from services.preprocess.domain.limits import Violations
from services.store.records import Hyperparameters, Rung
from turnloom.plural import counted
from turnloom.v1 import training_pb2 as pb

DEFAULT_ETA: Final = 2
EVAL_EVERY: Final = "base.hyperparameters.eval_every"


def check_halving(request: pb.CreateSweepRequest, violations: Violations) -> None:
    """Check the request's own fields."""
    if not request.successive_halving:
        given = {"halving_eta": request.HasField("halving_eta"), "halving_rungs": bool(request.halving_rungs)}
        for name in (name for name, is_set in given.items() if is_set):
            violations.add(name, "is set without successive_halving; set that too.")
        return
    if request.HasField("halving_eta") and request.halving_eta < 2:
        violations.add("halving_eta", f"is {request.halving_eta}; give 2 or more, since one cell in 2 goes on at most.")
    if not request.base.test_dataset:
        violations.add(
            "base.test_dataset", "is empty; name one, since successive halving compares cells by their test NLL."
        )
    for place, (before, step) in enumerate(pairwise([0, *request.halving_rungs])):
        if step <= before:
            said = f"is {step}, not above {before}" if place else f"is {step}"
            violations.add(f"halving_rungs[{place}]", f"{said}; give steps from 1 on, ascending.")


def rungs(request: pb.CreateSweepRequest, cells: Sequence[Hyperparameters], steps: Sequence[int]) -> tuple[Rung, ...]:
    """Return the rungs of a sweep; none where it does not ask for successive halving.

    Args:
        request: passed check_halving.
        cells: one per cell.
        steps: of each cell.

    Raises:
        InvalidRequest: cells that can't be compared, or rungs that they do not all come to.
    """
    if not request.successive_halving:
        return ()
    violations = Violations()
    eta = request.halving_eta if request.HasField("halving_eta") else DEFAULT_ETA
    every = math.lcm(*(cell.eval_every for cell in cells))
    if len(cells) < eta:
        violations.add(
            "axes", f"make {counted(len(cells), 'cell')}, of which one in {eta} would go on; give {eta} at least."
        )
    if len(set(steps)) > 1:
        violations.add(
            "axes",
            f"make cells of {min(steps)} and of {max(steps)} steps; successive halving compares cells that have the "
            "same number of steps. Set base.hyperparameters.max_steps.",
        )
    if any(cell.early_stopping_patience for cell in cells):
        violations.add(
            "base.hyperparameters.early_stopping_patience",
            "is set together with successive_halving; a cell that ends early comes to no rung. Set one of them.",
        )
    if every == 0:
        violations.add(EVAL_EVERY, "is 0; successive halving compares cells at an evaluation. Give steps.")
    violations.refuse()
    given = list(request.halving_rungs)
    found = (
        _given(given, len(cells), eta, steps[0], every, violations)
        if given
        else _derived(len(cells), eta, steps[0], every)
    )
    if not found:
        violations.add(
            EVAL_EVERY,
            f"is {every}, and the cells have {counted(steps[0], 'step')}: none is evaluated before its end, so that "
            f"none could be stopped. Give {max(1, steps[0] // eta)} or less.",
        )
    violations.refuse()
    return found


def _derived(cells: int, eta: int, steps: int, every: int) -> tuple[Rung, ...]:
    """Return steps / eta^k, each moved to the next evaluation.

    Where rungs coincide, the one that keeps fewest wins.
    """
    rounds = 0
    while eta ** (rounds + 1) <= cells:
        rounds += 1
    kept: dict[int, int] = {}
    for number in range(1, rounds + 1):
        step = -(-steps // (eta ** (rounds - number + 1) * every)) * every
        if step < steps:
            kept[step] = cells // eta**number
    return tuple(Rung(step, count) for step, count in kept.items())


def _given(
    asked: Sequence[int], cells: int, eta: int, steps: int, every: int, violations: Violations
) -> tuple[Rung, ...]:
    found = []
    for place, step in enumerate(asked):
        field = f"halving_rungs[{place}]"
        if step >= steps:
            violations.add(
                field, f"is {step}; the cells have {counted(steps, 'step')}, so a rung is at most {steps - 1}."
            )
        elif step % every:
            violations.add(
                field,
                f"is {step}; cells are evaluated every {counted(every, 'step')}, so that none is known there. "
                f"Give {max(every, step // every * every)}, or another {EVAL_EVERY}.",
            )
        elif cells // eta**place <= 1:
            violations.add(field, f"is one too many: after the {place} before it a single cell is left of {cells}.")
        found.append(Rung(step, max(1, cells // eta ** (place + 1))))
    return tuple(found)
