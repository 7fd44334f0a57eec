"""Find where text spells a control token of the tokenizer. Who may write one is decided in segments.py.

A control token is an added token of the tokenizer that is not white space only. Matching is that of the `tokenizers`
library: leftmost, then longest. `single_word` looks at the neighbours, `lstrip` and `rstrip` take the space beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.domain.literals import any_of

#: Unicode's White_Space, which Rust's `\\s` means; Python's own idea of white space holds four control characters more.
WHITE_SPACE: Final = (
    "\t\n\v\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
#: Literals of templates whose matches are remembered, and the longest that is: 4 MB at worst, some kB usually.
LITERALS: Final = 4096
LITERAL_CHARACTERS: Final = 1024


@dataclass(frozen=True, slots=True)
class ControlToken:
    """One added token of the tokenizer."""

    id: int
    content: str
    special: (
        bool  #: special ones come from the template's literals only; the others (`<think>`) from assistant text too
    )
    normalized: bool = False  #: the stock tokenizer looks for it after normalization
    lstrip: bool = False  #: takes the white space before it
    rstrip: bool = False  #: takes the white space after it
    single_word: bool = False  #: no letter, digit or underscore may touch it


class Match(NamedTuple):
    """One control token spelled in a text; a tuple, since thousands are made a second."""

    start: int  #: characters
    end: int  #: characters
    token: ControlToken

    def with_white_space(self, text: str, floor: int, ceiling: int) -> tuple[int, int]:
        """Return start and end with the white space that lstrip and rstrip take, not beyond floor and ceiling."""
        start, end = self.start, self.end
        while self.token.lstrip and start > floor and text[start - 1] in WHITE_SPACE:
            start -= 1
        while self.token.rstrip and end < ceiling and text[end] in WHITE_SPACE:
            end += 1
        return start, end


class ControlTokenTable:
    """The control tokens of one tokenizer, found in text in time linear in its length."""

    def __init__(self, tokens: Sequence[ControlToken]) -> None:
        self.by_content = {token.content: token for token in tokens}
        self.by_id = {token.id: token for token in tokens}
        #: any of them, neighbours not looked at; None without control tokens
        self.pattern = any_of(token.content for token in tokens)
        #: whether a match depends on nothing but its own characters
        self.plain = not any(token.single_word or token.lstrip or token.rstrip for token in tokens)
        self._literals: BoundedCache[str, Sequence[Match]] = BoundedCache(LITERALS)

    def find_in_literal(self, text: str, start: int, end: int) -> tuple[int, Sequence[Match]]:
        """Return an offset and the matches behind it; a template has few literals, so they are searched once each."""
        if not self.plain or end - start > LITERAL_CHARACTERS:
            return 0, self.find(text, start, end)
        literal = text[start:end]
        found = self._literals.get(literal)
        if found is None:
            found = self._literals[literal] = self.find(literal, 0, len(literal))
        return start, found

    def find(self, text: str, start: int, end: int) -> list[Match]:
        """Return the control tokens that text[start:end] spells, in order and apart."""
        if self.pattern is None:
            return []
        matches: list[Match] = []
        for found in self.pattern.finditer(text, start, end):
            first, last = found.span()
            token = self.by_content[found[0]]
            if not token.single_word or not _touches_word(text, first, last):
                matches.append(Match(first, last, token))
        return matches


def _touches_word(text: str, start: int, end: int) -> bool:
    return _is_word(text, start - 1) or _is_word(text, end)


def _is_word(text: str, index: int) -> bool:
    return 0 <= index < len(text) and (text[index].isalnum() or text[index] == "_")
