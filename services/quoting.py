"""Cut a caller's name for something where an error repeats it."""

from __future__ import annotations

from typing import Final

QUOTED: Final = 128  #: characters


def cut(name: str) -> str:
    """Return a name as a sentence quotes it: a long one is cut, with its length."""
    return name if len(name) <= QUOTED else f"{name[:QUOTED]}… ({len(name)} characters)"
