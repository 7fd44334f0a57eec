"""Write steps of a run as TensorBoard events, with the ledger's own times. Needs tensorboardX."""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter

from turnloom.results.files import rows
from turnloom.results.runs import Run
from turnloom.results.scalars import scalars


def write_events(folder: Path, run: Run) -> list[Path]:
    """Write one event file to a folder named after the job, shown as one run; replaces earlier ones."""
    place = folder / run.job.id
    for old in place.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(place)) as writer:
        for row in rows([run]):
            for tag, value in scalars(row).items():
                writer.add_scalar(tag, value, row["step"], walltime=row["time"])
    return sorted(place.glob("events.out.tfevents.*"))
