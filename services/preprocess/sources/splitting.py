"""A train and a test part by seed and position only: the rule of turnloom.splitting, in arrays. Knows no row."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def held_out(count: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which of `count` >= 2 conversations are the test part; at least one is on either side.

    Those with the smallest sha256 of "{seed}:split:{position}".
    """
    size = min(count - 1, max(1, round(count * fraction)))
    ranks = b"".join(hashlib.sha256(f"{seed}:split:{index}".encode()).digest() for index in range(count))
    test = np.zeros(count, dtype=np.bool_)
    test[np.argsort(np.frombuffer(ranks, dtype="S32"), kind="stable")[:size]] = True
    return test
