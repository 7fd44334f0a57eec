"""Choose the reader of each kind of file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from services.preprocess.datasets.sources.columnar import cut_arrow, cut_parquet, read_arrow, read_batch, read_parquet
from services.preprocess.datasets.sources.line_files import cut_lines, holds_lines, read_lines
from services.preprocess.datasets.sources.opening import opened
from services.preprocess.datasets.sources.pieces import Piece
from services.preprocess.datasets.sources.staging import read_staged, stage
from services.preprocess.domain.source_errors import SourceNotReadable
from turnloom.plural import counted
from turnloom.reading.documents import rows_of
from turnloom.reading.file_kinds import is_compressed, kind_of
from turnloom.reading.rows import RawRow

#: Kinds of files that any worker enters where its shard begins.
CUTTERS: Final[Mapping[str, Callable[[str], Iterator[Piece]]]] = {
    "lines": cut_lines,
    "arrow": cut_arrow,
}
READERS: Final[Mapping[str, Callable[[Piece], Iterator[RawRow]]]] = {
    "lines": read_lines,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "batch": read_batch,
    "staged": read_staged,
}


def pieces_of(url: str, staging_folder: str) -> Iterator[Piece]:
    """Yield the pieces of one file in order.

    A file that can't be entered in the middle is staged below `staging_folder`.

    Raises:
        SourceNotReadable, StoreError.
    """
    kind = "lines" if holds_plain_lines(url) else kind_of(url)
    if kind == "parquet":
        yield from cut_parquet(url, staging_folder)
    elif kind in CUTTERS and not is_compressed(url):
        yield from CUTTERS[kind](url)
    else:
        yield from stage(_whole(url), staging_folder, url)


def holds_plain_lines(url: str) -> bool:
    """Return whether a file holds JSON lines that are not compressed, so that it can be parted at bytes."""
    kind = kind_of(url)
    return not is_compressed(url) and (kind == "lines" or (kind == "json" and holds_lines(url)))


def _whole(url: str) -> Iterator[RawRow]:
    with opened(url) as file:
        yield from rows_of(url, file)


def read(piece: Piece) -> Iterator[RawRow]:
    """Yield the rows of a piece, in order.

    Raises:
        SourceNotReadable: the file is gone, damaged, or shorter than it was when it was cut.
    """
    found = 0
    for row in READERS[piece.kind](piece):
        yield row
        found += 1
        if found == piece.count:
            return
    raise SourceNotReadable(
        f"{piece.place} gave {found} of {counted(piece.count, 'row')}: it was changed while it was read.",
        hint="Make the dataset anew of a file that stays as it is.",
    )
