"""A train and a test split that depend on seed and position only, so that every run makes the same. Knows no file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from turnloom.errors import InvalidInput

T = TypeVar("T")


def split(items: Sequence[T], test_fraction: float, seed: int = 0) -> tuple[list[T], list[T]]:
    """Train and test, each in the order given; at least one item on either side.

    Raises:
        InvalidInput: the fraction is not between 0 and 1, or there are fewer than two items.
    """
    if not 0 < test_fraction < 1:
        raise InvalidInput(f"The test fraction is {test_fraction:g}, but must lie between 0 and 1.", hint="Try 0.1.")
    if len(items) < 2:
        raise InvalidInput(
            f"{len(items)} conversation can't be split into train and test.", hint="Give at least two, or no fraction."
        )
    size = min(len(items) - 1, max(1, round(len(items) * test_fraction)))
    ranked = sorted(range(len(items)), key=lambda index: hashlib.sha256(f"{seed}:split:{index}".encode()).digest())
    held_out = set(ranked[:size])
    train = [item for index, item in enumerate(items) if index not in held_out]
    return train, [items[index] for index in sorted(held_out)]
