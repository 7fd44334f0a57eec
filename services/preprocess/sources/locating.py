"""What a source's name means: a hub dataset, or files below the roots. Opens nothing; knows no format.

    name or owner/name                      a dataset of the hub
    anything with a path's look             a file, folder or glob: it begins with / ./ ~ or file://, ends like a data
                                            file, or holds * ? [
    protocol://...                          an fsspec URL: file, folder or glob

The API asks `locate` before it accepts, by the text alone; the worker asks again and then looks at real paths.
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

import fsspec

from services.preprocess.sources.errors import SourceNotAllowed, SourceNotFound, SourceNotKnown, SourceNotReadable
from turnloom.file_kinds import KINDS, is_data, kind_of

_HUB: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_MAGIC: Final = re.compile(r"[*?\[]")


class Folders(Protocol):
    """What is used of an fsspec file system to find files."""

    def isdir(self, path: str) -> bool: ...  # noqa: D102  # fsspec's
    def isfile(self, path: str) -> bool: ...  # noqa: D102
    def find(self, path: str) -> list[str]: ...  # noqa: D102
    def glob(self, path: str) -> list[str]: ...  # noqa: D102
    def unstrip_protocol(self, path: str) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Location:
    """Where a source is."""

    hub: str = ""  #: name of a hub dataset; empty: files
    places: tuple[str, ...] = ()  #: absolute paths, or one URL; the first that exists is meant


def locate(uri: str, roots: Sequence[str]) -> Location:
    """What a name means, judged by its text.

    Args:
        uri: as the user wrote it.
        roots: absolute folders and URLs below which files may be read.

    Raises:
        SourceNotAllowed: a path or URL that is not below a root.
    """
    text = uri.removeprefix("file://")
    if "://" in text:
        return Location(places=(_url_below(text, roots),))
    if not _looks_like_path(text):
        return Location(hub=text)
    path = os.path.expanduser(text)
    local = [root for root in roots if "://" not in root]
    wanted = [path] if os.path.isabs(path) else [os.path.join(root, path) for root in local]
    places = tuple(place for place in map(os.path.normpath, wanted) if any(_below(place, root) for root in local))
    if not places:
        raise _not_allowed(uri, roots)
    return Location(places=places)


def _looks_like_path(text: str) -> bool:
    return bool(
        text.startswith(("/", ".", "~")) or _MAGIC.search(text) or kind_of(text) or _HUB.fullmatch(text) is None
    )


def _url_below(url: str, roots: Sequence[str]) -> str:
    protocol, _, rest = url.partition("://")
    clean = f"{protocol}://{posixpath.normpath(rest)}"
    if ".." in rest.split("/") or not any(_below(clean, root.rstrip("/")) for root in roots if "://" in root):
        raise _not_allowed(url, roots)
    return clean


def _below(place: str, root: str) -> bool:
    return place == root or place.startswith(root.rstrip("/") + "/")


def _not_allowed(uri: str, roots: Sequence[str]) -> SourceNotAllowed:
    known = ", ".join(roots) or "none"
    return SourceNotAllowed(
        f"{uri} is not below a source root of this server (roots: {known}).",
        hint="Set TURNLOOM_SOURCE_ROOTS on API and workers, or let the client send the file.",
    )


def files(location: Location, roots: Sequence[str]) -> list[str]:
    """Data files of a location in order of their names: one file, all of a folder, or what a glob matches.

    Raises:
        SourceNotFound: nothing is there, or no data file.
        SourceNotAllowed: a link leads out of the roots.
        SourceNotKnown: the one file that is named is no data file.
    """
    for place in location.places:
        found = _url_files(place) if "://" in place else _local_files(place, roots)
        if found is not None:
            break
    else:
        raise SourceNotFound(f"There is nothing at {location.places[0]}.", hint="Look at the spelling and the host.")
    named = len(found) == 1 and found[0] == place
    data = [name for name in found if is_data(name)]
    if not data and named:
        raise SourceNotKnown(f"{place} is no data file.", hint=f"Known are: {', '.join(KINDS)}.")
    if not data:
        raise SourceNotFound(f"There is no data file at {place}.", hint=f"Known are: {', '.join(KINDS)}.")
    return data


def _local_files(place: str, roots: Sequence[str]) -> list[str] | None:
    """None: there is nothing."""
    if os.path.isdir(place):
        found = [os.path.join(folder, name) for folder, _, names in os.walk(place) for name in names]
        found = [path for path in found if not any(part.startswith(".") for part in path[len(place) :].split(os.sep))]
    elif os.path.exists(place):
        found = [place]
    else:
        found = [path for path in glob.glob(place, recursive=True) if os.path.isfile(path)]
    real_roots = [os.path.realpath(root) for root in roots if "://" not in root]
    for path in found:
        if not any(_below(os.path.realpath(path), root) for root in real_roots):
            raise SourceNotAllowed(f"{path} leads out of the source roots.", hint="Put the file itself below a root.")
    return sorted(found) or None


def _url_files(url: str) -> list[str] | None:
    try:
        found, path = fsspec.core.url_to_fs(url)
        system = cast(Folders, found)
        if system.isfile(path):
            return [url]
        names = system.find(path) if system.isdir(path) else system.glob(path)
        return sorted(str(system.unstrip_protocol(name)) for name in names if system.isfile(name)) or None
    except (OSError, ValueError, ImportError) as error:
        raise SourceNotReadable(
            f"{url} can't be looked at: {error}", hint="Check the URL and its credentials."
        ) from error
