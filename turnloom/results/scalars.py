"""Name the numbers of a step as dashboards of runs show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from turnloom.results.files import Cell

#: Column of the rows (files.py) to the name in TensorBoard and Weights & Biases.
TAGS: Final[Mapping[str, str]] = {
    "train_nll": "nll/train",
    "test_nll": "nll/test",
    "train_bits_per_byte": "bits_per_byte/train",
    "test_bits_per_byte": "bits_per_byte/test",
    "objective": "train/objective",
    "step_learning_rate": "train/learning_rate",
    "tokens": "train/tokens",
    "seconds": "train/seconds",
    "gpu_utilization": "gpu/utilization",
    "gpu_memory_bytes": "gpu/memory_bytes",
}


def scalars(row: Mapping[str, Cell]) -> dict[str, Cell]:
    """Return a step's scalars by name; step 0, which trained nothing, has the evaluation only."""
    trained = row["step"] != 0
    return {
        tag: row[column]
        for column, tag in TAGS.items()
        if row[column] is not None and (trained or column.startswith("test_"))
    }
