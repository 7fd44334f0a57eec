"""Suggest a learning rate to start with: `--lr auto`. A test compares the table with the one in docs/guide.md.

The guide's sweeps of a 4B model improve quickly between 1e-4 and 1e-3 at batch size 16. Larger models take smaller
rates; an n times larger batch takes about sqrt(n) times the rate. This is a start: a sweep finds a better one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from turnloom.errors import InvalidInput

#: (billions of parameters, exclusive; rate at BATCH conversations), smallest first; the last has no bound.
TABLE: Final[Sequence[tuple[float, float]]] = ((1, 5e-4), (3, 4e-4), (10, 3e-4), (40, 2e-4), (math.inf, 1e-4))
BATCH: Final = 16
#: Models whose names say no size. The demo's has random weights, which need a larger rate than a trained model's.
KNOWN: Final[Mapping[str, float]] = {"turnloom/tiny-qwen3": 4e-3}
_SIZE: Final = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BbMm])(?![A-Za-z0-9])")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A rate and the reason for it."""

    rate: float
    reason: str


def suggest(model: str, batch_size: int) -> Suggestion:
    """Suggest a rate for a model.

    Args:
        model: its name, which includes its size: "Qwen/Qwen3-4B-Instruct-2507".
        batch_size: conversations per step, >= 1.

    Raises:
        InvalidInput: the name includes no size.
    """
    if model in KNOWN:
        base, size = KNOWN[model], "a model with random weights"
    else:
        billions = parameters(model)
        if billions is None:
            raise InvalidInput(
                f"--lr auto: the name {model} says no size such as 4B.",
                hint="Give a rate; 1e-4 is usual.",
                field="--lr",
            )
        base, size = next(rate for bound, rate in TABLE if billions < bound), f"{billions:g}B parameters"
    rate = float(f"{base * math.sqrt(batch_size / BATCH):.1e}")
    return Suggestion(rate, f"{size} at batch size {batch_size}")


def parameters(model: str) -> float | None:
    """Return billions of parameters, the first size in the model's name; None: the name includes none."""
    found = _SIZE.search(model)
    if found is None:
        return None
    return float(found[1]) / (1 if found[2] in "Bb" else 1000)
