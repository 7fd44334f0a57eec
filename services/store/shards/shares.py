"""Share an epoch between the datasets of a mixture by their weights: the same for estimates and for the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def shares(weights: Sequence[float], conversations: int) -> list[int]:
    """Return how many of an epoch's `conversations` come from each dataset.

    Each gets its weight over the sum of weights, rounded down. What is left goes to the largest remainders, of equal
    ones to the first.

    Args:
        weights: > 0, one a dataset.
        conversations: that all datasets hold together.
    """
    total = sum(map(Fraction, weights))
    exact = [Fraction(weight) * conversations / total for weight in weights]
    whole = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: whole[place] - exact[place])
    for place in by_remainder[: conversations - sum(whole)]:
        whole[place] += 1
    return whole
