"""Steps of a run as TensorBoard events, with the ledger's own times. Needs tensorboardX; knows no server."""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter

from turnloom.results.files import Cell, rows
from turnloom.results.runs import Run

#: Column of the rows to the name in TensorBoard.
TAGS = {
    "train_nll": "nll/train",
    "test_nll": "nll/test",
    "test_bits_per_byte": "bits_per_byte/test",
    "objective": "train/objective",
    "step_learning_rate": "train/learning_rate",
    "tokens": "train/tokens",
    "seconds": "train/seconds",
    "gpu_utilization": "gpu/utilization",
    "gpu_memory_bytes": "gpu/memory_bytes",
}


def write_events(folder: Path, run: Run) -> list[Path]:
    """One event file in a folder of the job's name, which TensorBoard shows as one run. Earlier ones are replaced."""
    place = folder / run.job.id
    for old in place.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(place)) as writer:
        for row in rows([run]):
            _add(writer, row)
    return sorted(place.glob("events.out.tfevents.*"))


def _add(writer: SummaryWriter, row: dict[str, Cell]) -> None:
    trained = row["step"] != 0
    for column, tag in TAGS.items():
        value = row[column]
        if value is not None and (trained or column.startswith("test_")):
            writer.add_scalar(tag, value, row["step"], walltime=row["time"])
