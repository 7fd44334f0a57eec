"""What a grid of runs says, in words with reasons: best cell, ties, rank, rate, trouble, advice. Knows no server.

Noise. The ledger holds sums over the test dataset, not the NLL of each example, so the sampling noise of the test set
can't be taken from it. What is used instead is how much two cells' test NLLs jump against each other from evaluation
to evaluation: for the differences d of two cells at the evaluations of the run's second half,

    noise = sqrt(mean((d[i-1] - 2 d[i] + d[i+1])^2) / 6)

which is the standard deviation of d where d is a straight line plus independent noise (the second difference of such
noise has six times its variance), and more where the line bends. Cells of a sweep see the same batches in the same
order and the same test examples, so what these do to both cancels. A difference of at most twice the noise is a tie.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from turnloom.results.runs import Run, Value, label, written
from turnloom.results.trouble import Kind, Trouble, trouble_of
from turnloom.v1 import training_pb2

TIE: Final = 2.0  #: times the noise
MIN_EVALUATIONS: Final = 3  #: that a noise can be taken from
SLOW: Final = 0.5  #: share of the best cell's improvement below which a rate counts as slow


@dataclass(frozen=True, slots=True)
class Cell:
    """One run in its place."""

    run: Run
    values: tuple[Value, ...]  #: in order of the axes
    name: str
    start: float  #: test NLL of the first evaluation
    final: float  #: test NLL of the last evaluation
    trouble: Trouble | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said; every field but the sentences is for programs."""

    best: str  #: job id; empty: no cell was evaluated
    ties: tuple[str, ...]  #: job ids within noise of the best
    trouble: dict[str, Trouble]  #: by job id
    sentences: tuple[str, ...]


def noise(one: Run, other: Run) -> float | None:
    """Standard deviation of the difference of two runs' test NLL, nats; None: too few common evaluations."""
    first, second = dict(one.test), dict(other.test)
    steps = sorted(first.keys() & second.keys())
    half = [step for step in steps if steps and step >= steps[-1] / 2]
    used = half if len(half) >= MIN_EVALUATIONS else steps[1:]
    if len(used) < MIN_EVALUATIONS:
        return None
    apart = [first[step] - second[step] for step in used]
    bends = [a - 2 * b + c for a, b, c in zip(apart, apart[1:], apart[2:], strict=False)]
    return math.sqrt(sum(bend * bend for bend in bends) / len(bends) / 6)


def judge(runs: Sequence[Run], axes: Sequence[str]) -> Verdict:
    """Judges the runs that were evaluated; the others are named with their state."""
    cells = [_cell(run, axes) for run in runs if run.test]
    done = [cell for cell in cells if cell.run.job.state == training_pb2.JOB_STATE_SUCCEEDED]
    trouble = {cell.run.job.id: cell.trouble for cell in cells if cell.trouble is not None}
    sound = [cell for cell in done if cell.trouble is None or cell.trouble.kind is not Kind.DIVERGED]
    if not sound:
        sentences = ("No cell came to a sound end, so there is no best one.", *_unfinished(runs, axes), *_told(cells))
        return Verdict("", (), trouble, (*sentences, *_advice(cells, axes)))
    best = min(sound, key=lambda cell: cell.final)
    ties = [cell for cell in sound if cell is not best and _tied(cell, best)]
    sentences = (
        f"Best: {best.name}, test NLL {best.final:.4f} after step {best.run.test[-1][0]}"
        f" ({best.start:.4f} before training; {best.run.job.id}).",
        *_ties(best, ties, sound),
        *_ranks(best, sound, axes),
        *_rates(best, sound, cells, axes),
        *_unfinished(runs, axes),
        *_told(cells),
        *_advice(cells, axes),
    )
    return Verdict(best.run.job.id, tuple(cell.run.job.id for cell in ties), trouble, sentences)


def _cell(run: Run, axes: Sequence[str]) -> Cell:
    values, test = run.values(axes), run.test
    return Cell(run, values, label(axes, values) or run.job.id, test[0][1], test[-1][1], trouble_of(run))


def _tied(cell: Cell, best: Cell) -> bool:
    found = noise(cell.run, best.run)
    return found is not None and abs(cell.final - best.final) <= TIE * found


def _ties(best: Cell, ties: Sequence[Cell], sound: Sequence[Cell]) -> Iterator[str]:
    others = [cell for cell in sound if cell is not best]
    if not others:
        return
    if all(noise(cell.run, best.run) is None for cell in others):
        yield (
            f"Which cells are within noise can't be said: that takes {MIN_EVALUATIONS} evaluations at least; lower"
            " eval_every."
        )
        return
    if ties:
        named = "; ".join(f"{c.name} (+{c.final - best.final:.4f}, noise {noise(c.run, best.run):.4f})" for c in ties)
        yield f"Within noise of it: {named}."
    else:
        second = min(others, key=lambda cell: cell.final)
        found = noise(second.run, best.run)
        measured = "not known" if found is None else f"{found:.4f}"
        yield (
            f"No other cell is within noise: the next, {second.name}, is {second.final - best.final:.4f} above"
            f" (noise {measured})."
        )
    yield (
        "Noise is how far the difference of two cells jumps between evaluations; a difference of at most twice that is"
        " a tie. The ledger has no NLL per example, so the choice of test examples is not in it."
    )


def _ranks(best: Cell, sound: Sequence[Cell], axes: Sequence[str]) -> Iterator[str]:
    """What each higher rank gained at the best cell's other values."""
    line = _line("lora_rank", best, sound, axes)
    if len(line) < 2:
        return
    place = axes.index("lora_rank")
    gains, words = [], []
    for lower, higher in itertools.pairwise(line):
        gain, found = lower.final - higher.final, noise(lower.run, higher.run)
        gains.append(gain)
        tie = " (within noise)" if found is not None and abs(gain) <= TIE * found else ""
        verb = "gains" if gain >= 0 else "loses"
        words.append(f"{written(lower.values[place])} to {written(higher.values[place])} {verb} {abs(gain):.4f}{tie}")
    rest = [(axis, value) for axis, value in zip(axes, best.values, strict=True) if axis != "lora_rank"]
    others = label([axis for axis, _ in rest], [value for _, value in rest])
    yield f"Rank{f' at {others}' if others else ''}: {', '.join(words)}."
    enough = next(cell for cell in line if cell is best or _tied(cell, best))
    if enough is not line[-1]:
        rank = written(enough.values[place])
        yield f"Rank has diminishing returns here: {rank} is enough, no higher one is better by more than the noise."
    elif len(gains) > 1 and all(later < earlier / 2 for earlier, later in itertools.pairwise(gains)):
        yield "Rank has diminishing returns here: each step up gains less than half of the one before."


def _rates(best: Cell, sound: Sequence[Cell], cells: Sequence[Cell], axes: Sequence[str]) -> Iterator[str]:
    """Rates that are slow, and a best rate at the end of its axis."""
    line = _line("learning_rate", best, sound, axes)
    if len(line) < 2:
        return
    place = axes.index("learning_rate")
    improved = best.start - best.final
    slow = [cell for cell in line if improved > 0 and (cell.start - cell.final) / improved < SLOW]
    slow = [cell for cell in slow if cell.values[place] < best.values[place]]  # type: ignore[operator]  # numbers
    for cell in slow:
        share = (cell.start - cell.final) / improved
        yield (
            f"Rate {written(cell.values[place])} is slow: in {cell.run.test[-1][0]} steps it made {share:.0%} of the"
            " best cell's improvement."
        )
    rate = best.values[place]
    shaky = [cell for cell in cells if cell.values[place] == rate and _shaky(cell)]
    if best is line[-1] and shaky:
        yield f"The best rate is the largest of the grid, and large enough: {shaky[0].name} is unstable at it."
    elif best is line[-1]:
        yield "The best rate is the largest of the grid: a larger one may be better still."
    elif best is line[0]:
        yield "The best rate is the smallest of the grid: a smaller one may be better still."


def _shaky(cell: Cell) -> bool:
    return cell.trouble is not None and cell.trouble.kind in {Kind.DIVERGED, Kind.UNSTABLE}


def _line(axis: str, best: Cell, cells: Sequence[Cell], axes: Sequence[str]) -> list[Cell]:
    """Cells that differ from the best in this axis only, ascending in it; [] where there is no such axis."""
    if axis not in axes:
        return []
    place = axes.index(axis)

    def rest(cell: Cell) -> tuple[Value, ...]:
        return cell.values[:place] + cell.values[place + 1 :]

    same = [cell for cell in cells if rest(cell) == rest(best)]
    return sorted(same, key=lambda cell: cell.values[place])


def _unfinished(runs: Sequence[Run], axes: Sequence[str]) -> Iterator[str]:
    for run in runs:
        state = training_pb2.JobState.Name(run.job.state).removeprefix("JOB_STATE_")
        if run.job.state != training_pb2.JOB_STATE_SUCCEEDED:
            why = f": {run.job.error.message}" if run.job.error.message else "."
            name = label(axes, run.values(axes)) or run.job.id
            yield f"Not judged: {name} is {state} at step {run.job.progress.step}{why}"
        elif not run.test:
            yield f"Not judged: {run.job.id} was not evaluated; give it a test dataset."


def _told(cells: Sequence[Cell]) -> Iterator[str]:
    for cell in cells:
        if cell.trouble is not None:
            what = f"{cell.trouble.kind.value} at step {cell.trouble.step}"
            yield f"{cell.name[:1].upper()}{cell.name[1:]} {what}: {cell.trouble.reason}."


def _advice(cells: Sequence[Cell], axes: Sequence[str]) -> Iterator[str]:
    kinds = {cell.trouble.kind for cell in cells if cell.trouble is not None}
    if any(_shaky(cell) for cell in cells):
        yield "Where a run is unstable, lower the learning rate first, then the rank."
    if Kind.OVERFITTED in kinds:
        yield "Where a run over-fits, take fewer steps (or the best checkpoint), or more conversations."
    if "lora_rank" in axes:
        yield "If the task is harder than this one, try rank 32 before 128, and more steps before more rank."
