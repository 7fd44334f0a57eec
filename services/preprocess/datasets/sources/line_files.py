"""Cut files of JSON lines at line ends, and read from any piece."""

from __future__ import annotations

from collections.abc import Iterator

from services.preprocess.datasets.sources.opening import opened
from services.preprocess.datasets.sources.pieces import SHARD_BYTES, SHARD_ROWS, Piece
from turnloom.reading.documents import is_lines, line_row
from turnloom.reading.lines import MAX_LINE, Line, lines
from turnloom.reading.rows import RawRow


def cut_lines(url: str) -> Iterator[Piece]:
    """Yield pieces of at most SHARD_ROWS lines and, except for a single long line, SHARD_BYTES."""
    begin: Line | None = None
    count = end = 0
    with opened(url) as file:
        for line in lines(file):
            length = MAX_LINE if line.data is None else len(line.data)
            if begin is not None and (count == SHARD_ROWS or line.start + length - begin.start > SHARD_BYTES):
                yield Piece(url, "lines", url, begin.start, begin.number, count, line.start - begin.start)
                begin, count = None, 0
            begin = begin or line
            count, end = count + 1, line.start + length
    if begin is not None:
        yield Piece(url, "lines", url, begin.start, begin.number, count, end - begin.start)


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
