"""Cut files of JSON lines at line ends, and read from any piece."""

from __future__ import annotations

import io
from collections.abc import Iterator

from services.preprocess.datasets.sources.opening import opened
from services.preprocess.datasets.sources.pieces import SHARD_BYTES, SHARD_ROWS, Piece
from turnloom.reading.documents import is_lines, line_row
from turnloom.reading.lines import MAX_LINE, Line, all_lines, lines
from turnloom.reading.rows import RawRow


class LineCutter:
    """Cuts lines into pieces of at most SHARD_ROWS and, except for a single long line, SHARD_BYTES."""

    def __init__(self, url: str) -> None:
        """Start with no line of the file."""
        self._url = url
        self._begin: Line | None = None
        self._count = self._end = 0
        self.whole: list[Piece] = []  #: pieces that no further line belongs to
        self.lines = 0  #: that were seen, blank ones included

    def add(self, line: Line) -> bool:
        """Take the next line; return whether it is a row: a blank one is not."""
        self.lines += 1
        if line.is_blank:
            return False
        if self._begin is not None and (self._count == SHARD_ROWS or line.end - self._begin.start > SHARD_BYTES):
            self.whole.append(self._piece(line.start))
            self._begin, self._count = None, 0
        self._begin = self._begin or line
        self._count, self._end = self._count + 1, line.end
        return True

    @property
    def pieces(self) -> list[Piece]:
        """Return the pieces so far, the last one as if no more lines came."""
        return [*self.whole, self._piece(self._end)] if self._begin is not None else self.whole

    def _piece(self, end: int) -> Piece:
        assert self._begin is not None
        begin = self._begin
        return Piece(self._url, "lines", self._url, begin.start, begin.number, self._count, end - begin.start)


def cut_lines(url: str) -> Iterator[Piece]:
    """Yield the pieces of a file."""
    cutter = LineCutter(url)
    with opened(url) as file:
        for line in all_lines(file):
            cutter.add(line)
            while cutter.whole:
                yield cutter.whole.pop()
    yield from cutter.pieces


def lines_from(file: io.BufferedIOBase, begin: int, end: int) -> Iterator[Line]:
    """Yield the lines that begin at bytes `begin` to `end` - 1, blank ones too, numbered from 1."""
    start = begin
    if begin:  # the line that holds the byte before belongs to an earlier part
        file.seek(begin - 1)
        start -= 1
        while data := file.readline(MAX_LINE):
            start += len(data)
            if data.endswith(b"\n"):
                break
    for line in all_lines(file, start):
        if line.start >= end:
            return
        yield line


def read_lines(piece: Piece) -> Iterator[RawRow]:
    """Yield rows from the piece's start to the end of the file."""
    with opened(piece.url) as file:
        file.seek(piece.start)
        for line in lines(file, piece.start, piece.number):
            yield line_row(piece.place, line)


def holds_lines(url: str) -> bool:
    """Return whether a .json file is JSON lines under another name."""
    with opened(url) as file:
        return is_lines(file)
