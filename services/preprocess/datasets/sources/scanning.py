"""In tasks of their own, cut the lines of a large source's parts, and judge and compare their rows.

A file of JSON lines is parted at bytes. A line belongs to the part in which it begins. What a part gives is a file that
begins with a head as one line of JSON (Scanned). For rows that are compared their digests follow, bucket after bucket.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.preprocess.datasets.sources.lease import Lease
from services.preprocess.datasets.sources.line_files import LineCutter, lines_from
from services.preprocess.datasets.sources.opening import opened
from services.preprocess.datasets.sources.pieces import Piece
from services.preprocess.datasets.sources.reading import read
from services.store.blobs.files import whole_file
from services.store.codec import decode, encode
from turnloom.reading.chat_formats import Format
from turnloom.reading.documents import line_row
from turnloom.reading.lines import Line
from turnloom.reading.rows import RawRow
from turnloom.reading.selecting import Choice, Looking, Mask

PART_BYTES: Final = 64 << 20  #: of a part whose rows are parsed: a second of work or two
CUT_BYTES: Final = 512 << 20  #: of a part that is only cut at line ends
PART_PIECES: Final = 8  #: pieces that are cut already, of a part
BUCKET_BYTES: Final = 1 << 30  #: of the source for each bucket of digests: some hundred thousand rows
ROWS_A_CHECK: Final = 256  #: rows looked at between two questions whether anybody still waits
MOST_BUCKETS: Final = 256
#: A digest in two halves, and the row's place in its part.
ENTRY: Final = np.dtype([("high", ">u8"), ("low", ">u8"), ("row", "<u4")])


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a source: bytes of a file of JSON lines, or pieces that are cut already."""

    pieces: tuple[Piece, ...] = ()
    url: str = ""
    begin: int = 0  #: first byte
    end: int = 0  #: first byte behind it


@dataclass(frozen=True, slots=True)
class Scanned:
    """What was found in a part."""

    pieces: tuple[Piece, ...]  #: of bytes numbered from the part's first line, which is 1
    url: str = ""  #: of a part of a file's bytes
    lines: int = 0  #: of bytes, blank ones included
    passed: str = ""  #: base64 of one bit a row that the filter wants, first row in the highest bit; empty: all
    buckets: tuple[int, ...] = ()  #: entries in each bucket; empty: rows are not compared

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(piece.count for piece in self.pieces)

    def wanted(self) -> Mask:
        """Return which rows the filter wants, shape (rows,)."""
        bits = np.frombuffer(base64.b64decode(self.passed), np.uint8)
        return np.unpackbits(bits, count=self.rows).astype(np.bool_) if self.passed else np.ones(self.rows, np.bool_)


def parts_of_file(url: str, size: int, most: int) -> Iterator[Part]:
    """Yield the parts of a file of JSON lines, each of `most` bytes or less."""
    return (Part(url=url, begin=begin, end=min(begin + most, size)) for begin in range(0, size, most))


def scan(part: Part, shape: Format, choice: Choice, buckets: int, url: str, lease: Lease) -> None:
    """Write what is found in a part to the file `url`, which appears once it is whole.

    Args:
        part: to look at.
        shape: format of the rows.
        choice: rows are parsed and judged if it could leave any out.
        buckets: that digests are parted into, 1 to 256.
        url: in the store.
        lease: of this task.

    Raises:
        SourceNotReadable, NotWanted, StoreError, InvalidInput.
    """
    looking = Looking(choice, shape) if choice else None
    cutter = LineCutter(part.url)
    rows = _rows_of_pieces(part.pieces) if part.pieces else _rows_of_bytes(part, cutter, parse=looking is not None)
    for number, row in enumerate(rows):
        if number % ROWS_A_CHECK == 0:
            lease.check()
        if looking is not None and row is not None:
            looking.add(row)
    pieces = part.pieces or tuple(cutter.pieces)
    entries, counts = _bucketed(looking, buckets) if looking is not None and choice.compares else (b"", ())
    passed = base64.b64encode(np.packbits(looking.passed).tobytes()).decode() if looking is not None else ""
    with whole_file(url) as file:
        file.write(encode(Scanned(pieces, part.url, cutter.lines, passed, counts)).encode() + b"\n")
        file.write(entries)


def _rows_of_pieces(pieces: Sequence[Piece]) -> Iterator[RawRow]:
    return chain.from_iterable(read(piece) for piece in pieces)


def _rows_of_bytes(part: Part, cutter: LineCutter, *, parse: bool) -> Iterator[RawRow | None]:
    """Yield the rows whose lines begin in a part, None unless they are parsed; the cutter sees every line."""
    with opened(part.url) as file:
        for line in lines_from(file, part.begin, part.end):
            if cutter.add(line):
                yield line_row(part.url, line) if parse else None


def _bucketed(looking: Looking, buckets: int) -> tuple[bytes, tuple[int, ...]]:
    """Return the entries of all comparable rows, bucket after bucket, and how many are in each."""
    known = looking.known
    found = np.zeros(int(known.sum()), ENTRY)
    halves = np.frombuffer(looking.digests[known].tobytes(), ">u8").reshape(-1, 2)
    found["high"], found["low"], found["row"] = halves[:, 0], halves[:, 1], np.flatnonzero(known)
    bucket = (found["high"].astype(np.uint64) >> np.uint64(56)).astype(np.int64) * buckets >> 8
    return found[np.argsort(bucket, kind="stable")].tobytes(), tuple(np.bincount(bucket, minlength=buckets).tolist())


class ScanFile:
    """What `scan` wrote, read as far as it is asked for."""

    def __init__(self, url: str) -> None:
        """Read the head. Raises SourceNotReadable."""
        self._url = url
        with opened(url) as file:
            head = file.readline()
        self._start = len(head)
        self.found = decode(Scanned, head.decode())

    def bucket(self, number: int) -> NDArray[np.void]:
        """Return the entries of a bucket, shape (entries,) of ENTRY. Raises SourceNotReadable."""
        before, count = sum(self.found.buckets[:number]), self.found.buckets[number]
        with opened(self._url) as file:
            file.seek(self._start + before * ENTRY.itemsize, io.SEEK_SET)
            return np.frombuffer(file.read(count * ENTRY.itemsize), ENTRY)


def first_lines(part: Part) -> Iterator[RawRow]:
    """Yield the rows of a part as far as they are wanted."""
    if part.pieces:
        yield from _rows_of_pieces(part.pieces)
        return
    with opened(part.url) as file:
        yield from (line_row(part.url, line) for line in _not_blank(lines_from(file, part.begin, part.end)))


def _not_blank(lines: Iterator[Line]) -> Iterator[Line]:
    return (line for line in lines if not line.is_blank)
