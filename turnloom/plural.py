"""Write a number with its noun."""

from __future__ import annotations


def counted(number: int, noun: str, *, shown: str = "") -> str:
    """Return a number with its noun: "1 row", "3 rows".

    Args:
        number: how many.
        noun: of one; its plural ends with s.
        shown: the number as it is shown, such as 1.23M; empty: all its digits.
    """
    return f"{shown or number} {noun if number == 1 else f'{noun}s'}"
