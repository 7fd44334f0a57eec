"""A source's name into shards, and the format of its rows. Knows no Redis and no model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from services.preprocess.sources.errors import SourceEmpty, SourceNotKnown
from services.preprocess.sources.lease import Lease
from services.preprocess.sources.locating import Location, files, locate
from services.preprocess.sources.pieces import Piece, Shard, pack
from services.preprocess.sources.reading import pieces_of, read
from services.preprocess.sources.selecting import select
from services.preprocess.sources.staging import stage
from services.store.records import DatasetSource, WarningRecord
from turnloom.conversations import JSON
from turnloom.errors import InvalidInput
from turnloom.formats import Format, detect
from turnloom.rows import RawRow

LOOKED_AT = 100  #: rows that detection looks at


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """How a source is taken."""

    shape: Format
    shards: tuple[Shard, ...]
    warnings: tuple[WarningRecord, ...] = ()


def plan(source: DatasetSource, roots: Sequence[str], folder: str, lease: Lease) -> SourcePlan:
    """Cut a source into shards.

    Args:
        source: as it was asked for.
        roots: below which files may be read.
        folder: URL in the store for rows that have to be staged.
        lease: of this task.

    Raises:
        SourceError, NotWanted, StoreError.
    """
    shards = tuple(pack(_counted(_pieces(source, roots, folder, lease), lease), source.limit))
    if not shards:
        raise SourceEmpty(f"{source.uri} holds no row.", hint="Look at the file, the split and the limit.")
    shape = _shape(source, shards)
    return SourcePlan(shape, *select(source, shards, shape, lease))


def _pieces(source: DatasetSource, roots: Sequence[str], folder: str, lease: Lease) -> Iterator[Piece]:
    location = locate(source.uri, roots)
    name = location.hub or _hub_folder(source, location)
    if name:
        yield from stage(_hub_rows(name, source), f"{folder}/hub", name)
        return
    for number, name in enumerate(files(location, roots)):
        lease.check()
        yield from pieces_of(name, f"{folder}/{number:06d}")


def _hub_rows(name: str, source: DatasetSource) -> Iterator[RawRow]:
    # Imported here: `datasets` takes 70 MB and two seconds that no other source needs.
    from services.preprocess.sources.hub import rows  # noqa: PLC0415

    return islice(rows(name, source), source.limit or None)


def _hub_folder(source: DatasetSource, location: Location) -> str:
    """A local folder is read as the hub's own where a split or a configuration is named; empty: it is not."""
    folders = [place for place in location.places if "://" not in place and os.path.isdir(place)]
    return folders[0] if folders and (source.split or source.config) else ""


def _counted(pieces: Iterator[Piece], lease: Lease) -> Iterator[Piece]:
    for piece in pieces:
        lease.check()
        yield piece


def _shape(source: DatasetSource, shards: Sequence[Shard]) -> Format:
    """The format that was named, or the one that the first rows show."""
    try:
        if source.format:
            return Format(source.format, source.column_mapping)
        return detect(islice(_first_rows(shards), LOOKED_AT), source.column_mapping)
    except InvalidInput as error:
        raise SourceNotKnown(f"{source.uri}: {error.message}", hint=error.hint) from error


def _first_rows(shards: Sequence[Shard]) -> Iterator[JSON]:
    for piece in shards[0].pieces:
        yield from (row.value for row in read(piece) if not row.mistake)


def shown(source: DatasetSource, shape: Format) -> DatasetSource:
    """The source with the format and the columns that were found."""
    return replace(source, format=shape.name, column_mapping=dict(shape.columns))
