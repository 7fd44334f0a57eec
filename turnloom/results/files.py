"""Steps of runs as rows, and the rows as CSV or Parquet."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from turnloom.results.runs import JOB, Run, test_nll, train_nll
from turnloom.v1 import training_pb2
from turnloom.whole_file import whole_file

Cell: TypeAlias = "int | float | str | None"
#: Hyperparameters that stand in every row, beside those that tell the runs apart.
ALWAYS: Final = ("lora_rank", "learning_rate", "batch_size", "seed")
WHOLE: Final = ("epoch", "attempt", "conversations", "rows", "tokens", "loss_tokens", "target_bytes")


def rows(runs: Sequence[Run], axes: Sequence[str] = ()) -> list[dict[str, Cell]]:
    """Return one row per step, run after run; every row has the same columns.

    NLLs are nats per unit of weight. Bits per byte count the UTF-8 bytes of the trained text. `time` is seconds since
    1970. `learning_rate` is the job's peak, `step_learning_rate` that of the step. Values that a step does not
    have are None.
    """
    named = [*ALWAYS, *(axis for axis in axes if axis not in (*ALWAYS, JOB))]
    return [
        {"job": run.job.id, **dict(zip(named, run.values(named), strict=True)), **_numbers(step)}
        for run in runs
        for step in run.steps
    ]


def bits_per_byte(nll_sum: float, target_bytes: int) -> float | None:
    """Return bits per UTF-8 byte of the trained text, comparable between tokenizers; None: bytes unknown.

    `nll_sum` is in nats.
    """
    return nll_sum / math.log(2) / target_bytes if target_bytes > 0 else None


def _numbers(step: training_pb2.Step) -> dict[str, Cell]:
    trained, tested = step.step > 0, step.HasField("test_nll_sum")
    return {
        "step": step.step,
        **{name: getattr(step, name) for name in WHOLE},
        "nll_sum": step.nll_sum if trained else None,
        "weight_sum": step.weight_sum if trained else None,
        "train_nll": train_nll(step),
        "train_bits_per_byte": bits_per_byte(step.nll_sum, step.target_bytes) if trained else None,
        "objective": step.objective if trained else None,
        "step_learning_rate": step.learning_rate if trained else None,
        "test_nll_sum": step.test_nll_sum if tested else None,
        "test_weight_sum": step.test_weight_sum if tested else None,
        "test_nll": test_nll(step),
        "test_bits_per_byte": bits_per_byte(step.test_nll_sum, step.test_target_bytes) if tested else None,
        "seconds": sum(step.phase_seconds.values()),
        "gpu_utilization": step.gpu_utilization if step.HasField("gpu_utilization") else None,
        "gpu_memory_bytes": step.gpu_memory_bytes if step.HasField("gpu_memory_bytes") else None,
        "time": step.time.seconds + step.time.nanos / 1e9,
    }


def write_csv(path: Path, table: Iterable[dict[str, Cell]]) -> None:
    """Write UTF-8 with a header; None is empty, and numbers read back exactly."""
    listed = list(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(listed[0]) if listed else ["job", "step"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)
