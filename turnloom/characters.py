"""Replace halves of surrogate pairs, which can be neither printed nor sent.

They come from JSON whose export cut a character in two, and from names of files that are no UTF-8.
"""

from __future__ import annotations


def whole(text: str) -> str:
    """Return a text with "?" for each half of a surrogate pair."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def is_broken(text: str) -> bool:
    """Return whether a text holds half of a surrogate pair."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)
