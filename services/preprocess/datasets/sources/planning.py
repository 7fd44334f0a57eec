"""Turn a source's name into shards, and detect the format of its rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from services.preprocess.datasets.build import REMARKS
from services.preprocess.datasets.sources.lease import Lease
from services.preprocess.datasets.sources.listing import Found, files
from services.preprocess.datasets.sources.opening import size_of
from services.preprocess.datasets.sources.pieces import COPIED, Piece, Shard, pack
from services.preprocess.datasets.sources.reading import holds_plain_lines, pieces_of, read
from services.preprocess.datasets.sources.scanning import (
    BUCKET_BYTES,
    CUT_BYTES,
    MOST_BUCKETS,
    PART_BYTES,
    PART_PIECES,
    Part,
    first_lines,
    parts_of_file,
)
from services.preprocess.datasets.sources.selecting import choice_of, select
from services.preprocess.datasets.sources.sizes import SizeLimit, refuse_larger
from services.preprocess.datasets.sources.staging import noted, stage, staged
from services.preprocess.domain.source_errors import SourceEmpty, SourceNotKnown
from services.preprocess.domain.source_location import Location, locate
from services.store.records import DatasetSource, LeftOutRecord
from turnloom.errors import InvalidInput
from turnloom.reading.chat_formats import Format
from turnloom.reading.rows import RawRow, shape_of


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """The shards and the format of a source, and what of it is left out."""

    shape: Format
    shards: tuple[Shard, ...]
    left_out: LeftOutRecord


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """The parts of a large source, which tasks of their own look at before it can be cut into shards."""

    shape: Format
    parts: tuple[Part, ...]
    buckets: int  #: of digests


def plan_scans(
    source: DatasetSource, roots: Sequence[str], folder: str, limit: SizeLimit, lease: Lease
) -> ScanPlan | None:
    """Part a source whose files of JSON lines are large; None: `plan` reads it in one go.

    Arguments and errors are those of `plan`.
    """
    location = locate(source.uri, roots)
    if source.limit or source.overlap_split or location.hub or _hub_folder(source, location):
        return None
    found = files(location, roots)
    if found.outside or found.repeated:  # `plan` tells of them
        return None
    names = found.data
    sizes = {name: size_of(name) for name in names if holds_plain_lines(name)}
    most = PART_BYTES if choice_of(source) else CUT_BYTES
    if sum(sizes.values()) <= most:
        return None
    parts: list[Part] = []
    for number, name in enumerate(names):
        if name in sizes:
            parts += parts_of_file(name, sizes[name], most)
            continue
        pieces = _counted(pieces_of(name, f"{folder}/{number:06d}"), limit, lease)
        while some := tuple(islice(pieces, PART_PIECES)):
            parts.append(Part(pieces=some))
    shape = _shape(source, chain.from_iterable(first_lines(part) for part in parts))
    return ScanPlan(shape, tuple(parts), min(MOST_BUCKETS, 1 + sum(sizes.values()) // BUCKET_BYTES))


def plan(source: DatasetSource, roots: Sequence[str], folder: str, limit: SizeLimit, lease: Lease) -> SourcePlan:
    """Cut a source into shards.

    Args:
        source: as it was asked for.
        roots: below which files may be read.
        folder: URL in the store for rows that have to be staged.
        limit: of the dataset's size.
        lease: of this task.

    Raises:
        SourceError, NotWanted, StoreError.
    """
    location = locate(source.uri, roots)
    name = location.hub or _hub_folder(source, location)
    found = Found() if name else files(location, roots)
    hub = f"{folder}/hub"
    pieces = _hub_pieces(name, source, roots, hub, lease) if name else _file_pieces(found.data, folder, lease)
    shards = tuple(pack(_counted(pieces, limit, lease), source.limit))
    if not shards:
        raise SourceEmpty(f"{source.uri} holds no row.", hint="Look at the file, the split and the limit.")
    shape = _shape(source, _first_rows(shards))
    others = _checked(_other_split(source, roots, folder), lease) if source.overlap_split else ()
    chosen, left_out = select(source, shards, shape, lease, others)
    refuse_larger(sum(shard.wanted for shard in chosen), 0, limit)
    left_out = replace(left_out, outside_links=found.outside[:REMARKS], repeated_files=found.repeated[:REMARKS])
    return SourcePlan(shape, chosen, left_out)


def _file_pieces(names: Sequence[str], folder: str, lease: Lease) -> Iterator[Piece]:
    for number, name in enumerate(names):
        lease.check()
        yield from pieces_of(name, f"{folder}/{number:06d}")


def _hub_pieces(name: str, source: DatasetSource, roots: Sequence[str], folder: str, lease: Lease) -> Iterator[Piece]:
    """Yield the rows of the hub, resuming where an earlier attempt ended."""
    # Imported here: `datasets` takes 70 MB and two seconds that no other source needs.
    from services.preprocess.datasets.sources import hub  # noqa: PLC0415

    commit = noted(folder, lambda: hub.commit_of(name, source.revision))
    begun = list(staged(folder, name))
    yield from begun
    read = sum(piece.count for piece in begun)
    found = hub.rows(name, source, commit, read, roots)
    rows = islice(found, max(0, source.limit - read) if source.limit else None)
    yield from stage(_checked(rows, lease), folder, name, len(begun))


def _other_split(source: DatasetSource, roots: Sequence[str], folder: str) -> Iterator[RawRow]:
    """Yield the rows of the split that is searched for conversations of this one.

    They are read as they arrive, and not stored.
    """
    from services.preprocess.datasets.sources import hub  # noqa: PLC0415  # as above

    location = locate(source.uri, roots)
    name = location.hub or _hub_folder(source, location)
    if not name:
        raise SourceNotKnown(
            f"{source.uri} has no splits.", "overlap_split is for hub datasets and folders like these."
        )
    commit = noted(f"{folder}/hub", lambda: hub.commit_of(name, source.revision))
    yield from hub.rows(name, replace(source, split=source.overlap_split), commit, roots=roots)


def _checked(rows: Iterator[RawRow], lease: Lease) -> Iterator[RawRow]:
    for row in rows:
        lease.check()
        yield row


def _hub_folder(source: DatasetSource, location: Location) -> str:
    """Return a local folder to read as the hub would, or "".

    Only a source that names splits or a configuration is read that way.
    """
    folders = [place for place in location.places if "://" not in place and os.path.isdir(place)]
    return folders[0] if folders and (source.split or source.config or source.overlap_split) else ""


def _counted(pieces: Iterator[Piece], limit: SizeLimit, lease: Lease) -> Iterator[Piece]:
    """Yield the pieces; what is copied to the store is bounded, whatever is selected from it afterwards."""
    copied = 0
    for piece in pieces:
        lease.check()
        copied += piece.size if piece.kind in COPIED else 0
        refuse_larger(0, copied, limit)
        yield piece


def _shape(source: DatasetSource, first: Iterable[RawRow]) -> Format:
    """Return the named format, or the one that the first rows show."""
    try:
        return shape_of(first, source.format, source.column_mapping)
    except InvalidInput as error:
        raise SourceNotKnown(f"{source.uri}: {error.message}", hint=error.hint) from error


def _first_rows(shards: Sequence[Shard]) -> Iterator[RawRow]:
    for piece in shards[0].pieces:
        yield from read(piece)


def shown(source: DatasetSource, shape: Format) -> DatasetSource:
    """Return the source with the detected format and columns."""
    return replace(source, format=shape.name, column_mapping=dict(shape.columns))
