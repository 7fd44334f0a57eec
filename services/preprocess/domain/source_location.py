"""Read what a source's name means: a hub dataset, or files below the roots. Opens nothing.

    name or owner/name                      a dataset of the hub
    anything with a path's look             a file, folder or glob: it begins with / ./ ~ or file://, ends like a data
                                            file, or holds * ? [
    protocol://...                          an fsspec URL: file, folder or glob

The API asks `locate` before it accepts, by the text alone. The worker asks again and then looks at real paths.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.preprocess.domain.source_errors import SourceNotAllowed
from turnloom.reading.file_kinds import kind_of

_HUB: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_MAGIC: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Location:
    """The location of a source."""

    hub: str = ""  #: name of a hub dataset; empty: files
    places: tuple[str, ...] = ()  #: absolute paths, or one URL; the first that exists is meant


def locate(uri: str, roots: Sequence[str], *, hub: bool = True) -> Location:
    """Return what a name means, judged by its text.

    Args:
        uri: as the user wrote it.
        roots: absolute folders and URLs below which files may be read.
        hub: whether a name without a path's look is a hub dataset; rows of another engine never are.

    Raises:
        SourceNotAllowed: a path or URL that is not below a root.
    """
    text = uri.removeprefix("file://")
    if "::" in text:  # fsspec would open a second place within the first
        raise _not_allowed(uri, roots)
    if "://" in text:
        return Location(places=(_urlbelow(text, roots),))
    if hub and not _looks_like_path(text):
        return Location(hub=text)
    path = os.path.expanduser(text)
    local = [root for root in roots if "://" not in root]
    wanted = [path] if os.path.isabs(path) else [os.path.join(root, path) for root in local]
    places = tuple(place for place in map(os.path.normpath, wanted) if any(below(place, root) for root in local))
    if not places:
        raise _not_allowed(uri, roots)
    return Location(places=places)


def _looks_like_path(text: str) -> bool:
    return bool(
        text.startswith(("/", ".", "~")) or _MAGIC.search(text) or kind_of(text) or _HUB.fullmatch(text) is None
    )


def _urlbelow(url: str, roots: Sequence[str]) -> str:
    protocol, _, rest = url.partition("://")
    clean = f"{protocol}://{posixpath.normpath(rest)}"
    if ".." in rest.split("/") or not any(below(clean, root.rstrip("/")) for root in roots if "://" in root):
        raise _not_allowed(url, roots)
    return clean


def below(place: str, root: str) -> bool:
    """Return whether a path or URL is a root or lies below it."""
    return place == root or place.startswith(root.rstrip("/") + "/")


def _not_allowed(uri: str, roots: Sequence[str]) -> SourceNotAllowed:
    known = ", ".join(roots) or "none"
    return SourceNotAllowed(
        f"{uri} is not below a source root of this server (roots: {known}).",
        hint="Set TURNLOOM_SOURCE_ROOTS on API and workers, or let the client send the file.",
    )
