"""Split into train and test by seed and position only, so that every run makes the same split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from turnloom.errors import InvalidInput

T = TypeVar("T")


def held_out(count: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mark which of `count` positions form the test part, shape (count,); at least one on either side.

    The test part has the smallest sha256 of "{seed}:split:{position}".

    Raises:
        InvalidInput: the fraction is not between 0 and 1, or there are fewer than two.
    """
    if not 0 < fraction < 1:
        raise InvalidInput(
            f"test fraction: is {fraction:g}; give a number between 0 and 1.",
            hint="Try 0.1.",
            field="test_fraction",
        )
    if count < 2:
        raise InvalidInput(
            f"{count} conversation can't be split into train and test.",
            hint="Give at least two, or no fraction.",
            field="test_fraction",
        )
    size = min(count - 1, max(1, round(count * fraction)))
    ranks = b"".join(hashlib.sha256(f"{seed}:split:{index}".encode()).digest() for index in range(count))
    test = np.zeros(count, dtype=np.bool_)
    test[np.argsort(np.frombuffer(ranks, dtype="S32"), kind="stable")[:size]] = True
    return test


def split(items: Sequence[T], test_fraction: float, seed: int = 0) -> tuple[list[T], list[T]]:
    """Split into train and test, each in the order given; at least one item on either side.

    Raises:
        InvalidInput: as held_out().
    """
    test = held_out(len(items), test_fraction, seed)
    chosen = list(zip(items, test, strict=True))
    return [item for item, apart in chosen if not apart], [item for item, apart in chosen if apart]
