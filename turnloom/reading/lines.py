"""Read lines of a file with their places; memory stays bounded however long a line is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final, NamedTuple

MAX_LINE: Final = 16 << 20  #: bytes; a longer line is no conversation


class Line(NamedTuple):
    """One line."""

    start: int  #: byte in the file
    number: int  #: from 1
    data: bytes | None  #: None: it is longer than MAX_LINE
    end: int = 0  #: byte behind it

    @property
    def is_blank(self) -> bool:
        """Return whether it holds nothing but white space."""
        return self.data is not None and (not self.data or self.data.isspace())


def lines(file: io.BufferedIOBase, start: int = 0, number: int = 1) -> Iterator[Line]:
    """Yield lines from byte `start`, the beginning of line `number`; blank ones are counted and skipped."""
    return (line for line in all_lines(file, start, number) if not line.is_blank)


def all_lines(file: io.BufferedIOBase, start: int = 0, number: int = 1) -> Iterator[Line]:
    """Yield lines as `lines` does, blank ones too."""
    while data := file.readline(MAX_LINE + 1):
        length = len(data)
        whole: bytes | None = data
        if length > MAX_LINE:
            whole = None
            while data and not data.endswith(b"\n"):
                data = file.readline(MAX_LINE)
                length += len(data)
        yield Line(start, number, whole, start + length)
        start += length
        number += 1
