"""Cut rows of tokens to max_length. Dropping whole turns renders again, so it is in fit.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from turnloom.masks.domain.example import WeightedTokens
from turnloom.masks.domain.options import Truncation


def cut_right(row: WeightedTokens, max_length: int) -> WeightedTokens:
    """Keep the first max_length tokens."""
    return _window(row, 0, max_length)


def cut_left(row: WeightedTokens, max_length: int) -> WeightedTokens:
    """Keep the last max_length tokens."""
    return _window(row, len(row.token_ids) - max_length, len(row.token_ids))


def _window(row: WeightedTokens, start: int, stop: int) -> WeightedTokens:
    clipped = [(max(first, start) - start, min(last, stop) - start, weight) for first, last, weight in row.spans]
    spans = [span for span in clipped if span[0] < span[1]]
    return WeightedTokens(row.token_ids[start:stop], spans, first=row.first + start)


#: How one row is cut; the other truncations are not made of one row.
CUTS: Final[dict[Truncation, Callable[[WeightedTokens, int], WeightedTokens]]] = {
    Truncation.RIGHT: cut_right,
    Truncation.LEFT: cut_left,
}
