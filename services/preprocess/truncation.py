"""Rows of tokens cut to max_length. Knows no text: dropping whole turns renders again, in preprocessing.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.preprocess.options import Truncation

#: Tokens [start, end) that share a weight > 0, in order and disjoint.
TokenSpan: TypeAlias = "tuple[int, int, float]"


class Row(NamedTuple):
    """One row of tokens with the weights of its own tokens, not yet shifted to targets."""

    token_ids: NDArray[np.int32]  #: shape (N,)
    spans: Sequence[TokenSpan]
    first: int = 0  #: how many tokens were cut before token_ids[0]

    def loss_tokens(self) -> int:
        """How many targets carry weight; the first token is nobody's target."""
        return sum([end - max(start, 1) for start, end, _ in self.spans if end > 1])


def cut_right(row: Row, max_length: int) -> Row:
    """Keep the first max_length tokens."""
    return _window(row, 0, max_length)


def cut_left(row: Row, max_length: int) -> Row:
    """Keep the last max_length tokens."""
    return _window(row, len(row.token_ids) - max_length, len(row.token_ids))


def _window(row: Row, start: int, stop: int) -> Row:
    clipped = [(max(first, start) - start, min(last, stop) - start, weight) for first, last, weight in row.spans]
    spans = [span for span in clipped if span[0] < span[1]]
    return Row(row.token_ids[start:stop], spans, first=row.first + start)


#: How one row is cut; the other truncations are not made of one row.
CUTS: Final[dict[Truncation, Callable[[Row, int], Row]]] = {Truncation.RIGHT: cut_right, Truncation.LEFT: cut_left}
