"""Place runs in a grid, and find those that differ in one value only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from turnloom.results.noise import Noise
from turnloom.results.runs import Run, Value, label
from turnloom.results.trouble import Trouble, TroubleKind, trouble_of


@dataclass(frozen=True, slots=True)
class Cell:
    """One run and its place in the grid."""

    run: Run
    values: tuple[Value, ...]  #: in order of the axes
    name: str
    start: float  #: test NLL of the first evaluation
    final: float  #: test NLL of the last evaluation
    trouble: Trouble | None


def cell_of(run: Run, axes: Sequence[str]) -> Cell:
    """Return the cell of an evaluated run."""
    values, test = run.values(axes), run.test
    return Cell(run, values, label(axes, values) or run.job.id, test[0][1], test[-1][1], trouble_of(run))


def lowest_first(cell: Cell) -> tuple[float, tuple[Value, ...], str]:
    """Return a sort key: lowest test NLL first, then lowest values, since a lower rank is cheaper."""
    return cell.final, cell.values, cell.run.job.id


def is_tie(cell: Cell, best: Cell, noise: Noise | None) -> bool:
    """Return whether noise explains the difference of two cells."""
    return noise is not None and noise.hides(cell.final - best.final)


def shaky(cell: Cell) -> bool:
    """Return whether the cell diverged or was unstable."""
    return cell.trouble is not None and cell.trouble.kind in {TroubleKind.DIVERGED, TroubleKind.UNSTABLE}


def line_of(axis: str, best: Cell, cells: Sequence[Cell], axes: Sequence[str]) -> list[Cell]:
    """Return cells that differ from the best in this axis only, ascending; [] without such an axis."""
    if axis not in axes:
        return []
    place = axes.index(axis)

    def rest(cell: Cell) -> tuple[Value, ...]:
        return cell.values[:place] + cell.values[place + 1 :]

    same = [cell for cell in cells if rest(cell) == rest(best)]
    return sorted(same, key=lambda cell: cell.values[place])
