"""Groups of jobs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SweepAxis:
    """One axis of a grid."""

    hyperparameter: str  #: name of a field of Hyperparameters
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Rung:
    """A step at which the cells of a sweep are compared."""

    step: int
    kept: int  #: cells that go on, >= 1


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """A group of jobs."""

    id: str  #: "sweep-" and 12 characters
    axes: tuple[SweepAxis, ...]
    display_name: str = ""
    owner: str = ""
    create_time: float = 0.0
    rungs: tuple[Rung, ...] = ()  #: of successive halving, ascending; empty: every cell trains to its end
    jobs: tuple[str, ...] = ()  #: job ids, row-major in the axes, as far as they are made
    cells: int = 0  #: jobs that there shall be
