"""Find the data files of a location, in order of their names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import fsspec

from services.preprocess.datasets.sources.opening import readable
from services.preprocess.domain.source_errors import (
    SourceNotAllowed,
    SourceNotFound,
    SourceNotKnown,
    SourceNotReadable,
)
from services.preprocess.domain.source_location import Location, below
from turnloom.characters import whole
from turnloom.errors import InvalidInput
from turnloom.reading.file_kinds import COMPRESSED_TABLE, DECOMPRESS, KINDS, is_compressed_table, is_data
from turnloom.reading.file_names import SPLITS, check_splits, each_once, named_files


class Folders(Protocol):
    """The methods of an fsspec file system that finding files needs."""

    def isdir(self, path: str) -> bool: ...  # noqa: D102  # fsspec's
    def isfile(self, path: str) -> bool: ...  # noqa: D102
    def find(self, path: str) -> list[str]: ...  # noqa: D102
    def glob(self, path: str, detail: bool) -> Mapping[str, Mapping[str, object]]: ...  # noqa: D102
    def unstrip_protocol(self, path: str) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Found:
    """The files of a location, each in order of their names."""

    data: tuple[str, ...] = ()  #: paths or URLs of data files
    outside: tuple[str, ...] = ()  #: data files and folders that are left out, for they are links out of the roots
    repeated: tuple[str, ...] = ()  #: links to data files that are there under another path


def files(location: Location, roots: Sequence[str]) -> Found:
    """Return the data files of a location: one file, a whole folder, or a glob's matches.

    Raises:
        SourceNotFound: nothing is there, or no data file.
        SourceNotAllowed: all that is there are links out of the roots.
        SourceNotKnown: the one named file is not a data file.
        SourceNotReadable: a pipe, a device, or a link to nothing is there.
    """
    for place in location.places:
        found = _url_files(place) if "://" in place else _local_files(place, roots)
        if found is not None:
            break
    else:
        raise SourceNotFound(f"There is nothing at {location.places[0]}.", hint="Look at the spelling and the host.")
    named = len(found) == 1 and found[0] == place
    outside = tuple(name for name in found if (is_data(name) or os.path.isdir(name)) and _leads_out(name, roots))
    data = tuple(name for name in found if is_data(name) and name not in outside)
    if data:
        once, repeated = (data, ()) if "://" in place else each_once(data)
        return Found(once, outside, repeated)
    if outside or (named and _leads_out(place, roots)):
        link = outside[0] if outside else place
        raise SourceNotAllowed(f"{link} leads out of the source roots.", hint="Put the file itself below a root.")
    if named and is_compressed_table(place):
        raise SourceNotKnown(f"{place} {COMPRESSED_TABLE}", hint=DECOMPRESS)
    if named:
        raise SourceNotKnown(f"{place} is no data file.", hint=f"Known are: {', '.join(KINDS)}.")
    raise SourceNotFound(f"There is no data file at {place}.", hint=f"Known are: {', '.join(KINDS)}.")


def _local_files(place: str, roots: Sequence[str]) -> list[str] | None:
    """Return the local files, or None where nothing is there.

    A link to a folder outside the roots is returned itself, so that nobody learns what lies there.
    """
    if os.path.isdir(place) and _leads_out(place, roots):
        return [place]
    try:
        found = named_files(place, enters=lambda link: not _leads_out(link, roots))
    except InvalidInput as error:
        raise SourceNotReadable(error.message, error.hint) from error
    for path in found:
        if whole(path) != path:
            raise SourceNotReadable(f"{whole(path)} has a name that is no UTF-8.", hint="Rename it.")
    return found or ([] if os.path.isdir(place) else None)


def _leads_out(name: str, roots: Sequence[str]) -> bool:
    """Return whether a path of this machine is, links resolved, below no root."""
    real = os.path.realpath(name)
    return "://" not in name and not any(below(real, os.path.realpath(root)) for root in roots if "://" not in root)


def _check_one_split(url: str, system: Folders, folder: str, found: Sequence[str]) -> None:
    for name in found:
        if name.removeprefix(folder).strip("/") == SPLITS:
            with fsspec.open(system.unstrip_protocol(name), "rb") as file:
                data = file.read()
            try:
                check_splits(url.rstrip("/"), data)
            except InvalidInput as error:
                raise SourceNotReadable(error.message, error.hint) from error


def _url_files(url: str) -> list[str] | None:
    with readable(url, hint="Check the URL and its credentials."):
        found, path = fsspec.core.url_to_fs(url)
        system = cast(Folders, found)
        if system.isfile(path):
            return [url]
        if system.isdir(path):
            names = system.find(path)
            _check_one_split(url, system, path, names)
        else:  # not isfile() of each: it says no where the store gives no answer
            names = [name for name, about in system.glob(path, detail=True).items() if about["type"] == "file"]
        return sorted(str(system.unstrip_protocol(name)) for name in names) or None
