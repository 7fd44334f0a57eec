"""Read true and false as other tools and tables write them."""

from __future__ import annotations

from typing import Final

#: Ways in which texts say true and false.
_WORDS: Final = {
    **dict.fromkeys(("true", "1", "1.0", "yes"), True),
    **dict.fromkeys(("false", "0", "0.0", "no"), False),
}


def truth_of(value: object) -> bool | None:
    """Return what a truth value, a number or a word says; None: neither true nor false."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return bool(value) if value in (0, 1) else None
    return _WORDS.get(value.strip().lower()) if isinstance(value, str) else None
