"""A tokenized dataset as a file between two processes of the benchmark. Knows no server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.trainer.batches.rows import Row


def saved_rows(path: Path, rows: Sequence[tuple[int, NDArray[np.int32], NDArray[np.float32]]]) -> None:
    """Writes (conversation, token ids, target weights) of every row."""
    np.savez(
        path,
        conversation=np.array([row[0] for row in rows]),
        lengths=np.array([len(row[1]) for row in rows]),
        tokens=np.concatenate([row[1] for row in rows]),
        weights=np.concatenate([row[2] for row in rows]),
    )


def loaded_rows(path: Path) -> list[Row]:
    """What saved_rows wrote."""
    with np.load(path) as columns:
        ends = np.cumsum(columns["lengths"])
        tokens, weights, conversation = columns["tokens"], columns["weights"], columns["conversation"]
    return [
        Row(
            int(conversation[number]),
            tokens[end - length : end],
            weights[end - length - number : end - number - 1],
            0,
        )
        for number, (end, length) in enumerate(zip(ends, np.diff(ends, prepend=0), strict=True))
    ]
