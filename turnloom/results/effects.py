"""Describe the effect of rank, rate and steps in a grid, in sentences with their numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

from turnloom.plural import counted
from turnloom.results.cells import Cell, is_tie, line_of, shaky
from turnloom.results.noise import between
from turnloom.results.runs import label, written

SLOW: Final = 0.5  #: share of the best cell's improvement below which a rate counts as slow
STILL: Final = 0.1  #: of its mean pace; the best cell counts as improving if its last evaluation fell faster


def on_ranks(best: Cell, sound: Sequence[Cell], axes: Sequence[str]) -> Iterator[str]:
    """Yield what each higher rank gained at the best cell's other values."""
    line = line_of("lora_rank", best, sound, axes)
    if len(line) < 2:
        return
    place = axes.index("lora_rank")
    gains, words = [], []
    for lower, higher in itertools.pairwise(line):
        gain, found = lower.final - higher.final, between(lower.run, higher.run)
        gains.append(gain)
        tie = " (within noise)" if found is not None and found.hides(gain) else ""
        verb = "gains" if gain >= 0 else "loses"
        words.append(f"{written(lower.values[place])} to {written(higher.values[place])} {verb} {abs(gain):.4f}{tie}")
    rest = [(axis, value) for axis, value in zip(axes, best.values, strict=True) if axis != "lora_rank"]
    others = label([axis for axis, _ in rest], [value for _, value in rest])
    yield f"Rank{f' at {others}' if others else ''}: {', '.join(words)}."
    enough = next(cell for cell in line if cell is best or is_tie(cell, best, between(cell.run, best.run)))
    if enough is not line[-1]:
        rank = written(enough.values[place])
        better = "no higher one was better" if enough is best else "no higher one is better by more than the noise"
        yield f"Rank has diminishing returns here: {rank} is enough, {better}."
    elif len(gains) > 1 and all(later < earlier / 2 for earlier, later in itertools.pairwise(gains)):
        yield "Rank has diminishing returns here: each step up gains less than half of the one before."


def on_rates(best: Cell, sound: Sequence[Cell], cells: Sequence[Cell], axes: Sequence[str]) -> Iterator[str]:
    """Report slow rates, and a best rate at the end of its axis."""
    line = line_of("learning_rate", best, sound, axes)
    if len(line) < 2:
        return
    place = axes.index("learning_rate")
    improved = best.start - best.final
    slow = [cell for cell in line if improved > 0 and (cell.start - cell.final) / improved < SLOW]
    slow = [cell for cell in slow if cell.values[place] < best.values[place]]  # type: ignore[operator]  # numbers
    for cell in slow:
        share = (cell.start - cell.final) / improved
        yield (
            f"Rate {written(cell.values[place])} is slow: in {counted(cell.run.test[-1][0], 'step')} it made"
            f" {share:.0%} of the best cell's improvement."
        )
    rate = best.values[place]
    unstable = [cell for cell in cells if cell.values[place] == rate and shaky(cell)]
    if best is line[-1] and unstable:
        yield f"The best rate is the largest of the grid, and large enough: {unstable[0].name} is unstable at it."
    elif best is line[-1]:
        yield "The best rate is the largest of the grid: a larger one may be better still."
    elif best is line[0]:
        yield "The best rate is the smallest of the grid: a smaller one may be better still."


def on_steps(best: Cell) -> Iterator[str]:
    """Report whether the best cell had stopped improving."""
    test = best.run.test
    if len(test) < 3:
        return
    (earlier, before), (step, last) = test[-2:]
    if last >= min(nll for _, nll in test[:-1]):
        return
    pace = (before - last) / (step - earlier) / ((best.start - last) / (step - test[0][0]))
    if pace > STILL:
        yield (
            f"The best cell was still improving: its test NLL fell by {before - last:.4f} between steps {earlier} and"
            f" {step}, at {pace:.0%} of its mean pace. Try more steps before more rank."
        )


def calmer(unstable: Sequence[Cell], cells: Sequence[Cell], axes: Sequence[str]) -> str:
    """Cite this grid's evidence for that advice: the next lower rate, else rank, that was stable."""
    for axis in ("learning_rate", "lora_rank"):
        for cell in unstable:
            calm = [other for other in line_of(axis, cell, cells, axes) if not shaky(other)]
            place = axes.index(axis) if axis in axes else 0
            lower = [other for other in calm if other.values[place] < cell.values[place]]  # type: ignore[operator]  # numbers
            if lower:
                found = lower[-1]
                step = found.run.test[-1][0]
                return f": {cell.name} is unstable, {found.name} is not (test NLL {found.final:.4f} at step {step})"
    return ""
