"""Find the tokenizer's added tokens in literal text."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from turnloom.masks.domain.literals import any_of


class AddedTokenFinder:
    """Finds added tokens in literals, longest first, as tokenizers do."""

    def __init__(self, tokens: Mapping[str, bool]) -> None:
        """Take every added token's text -> whether the tokenizer calls it special."""
        self._pattern = any_of(tokens)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield [start, end) of every added token, in order."""
        return (match.span() for match in self._pattern.finditer(text)) if self._pattern is not None else iter(())

    def last(self, text: str) -> tuple[int, int] | None:
        """Return the bounds of the last added token."""
        return next(iter(deque(self.spans(text), maxlen=1)), None)

    def floor(self, text: str, at: int) -> int:
        """Return the nearest position <= at that splits neither an added token nor a word of this text."""
        for start, end in self.spans(text):
            if start < at < end:
                return start
            if start >= at:
                break
        while 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum():
            at -= 1
        return at
