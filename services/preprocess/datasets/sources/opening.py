"""Open source files for reading, local or through fsspec, with one kind of error."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

import fsspec

from services.preprocess.domain.source_errors import SourceNotReadable
from services.store.blobs.files import FileSystem, is_failure, reader, said
from turnloom.errors import InvalidInput
from turnloom.reading.file_kinds import DAMAGED, DAMAGES, damage, decompressed, is_damage

BUFFER: Final = 1 << 20  #: bytes read at once


@contextmanager
def readable(url: str, hint: str = "") -> Iterator[None]:
    """Raise what a file system, its client or a decompressor raises as SourceNotReadable."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DAMAGES) or ("://" not in url and is_damage(error)):
            raise SourceNotReadable(f"{url} can't be read: {damage(error)}.", hint or DAMAGED) from error
        if not (is_failure(error) or isinstance(error, ImportError)):
            raise
        raise SourceNotReadable(f"{url} can't be read: {said(error)}", hint) from error


@contextmanager
def opened(url: str) -> Iterator[io.BufferedIOBase]:
    """Open a path or URL as bytes, decompressed where its name asks for it.

    Raises:
        SourceNotReadable: also for what goes wrong while it is read.
    """
    try:
        with readable(url), _raw(url) as raw:
            yield decompressed(url, raw)
    except InvalidInput as error:  # its words begin with the place
        raise SourceNotReadable(error.message, error.hint) from error


def size_of(url: str) -> int:
    """Return the bytes of a path or URL, as it lies there. Raises SourceNotReadable."""
    with readable(url):
        if "://" not in url:
            return os.path.getsize(url)
        found, path = fsspec.core.url_to_fs(url)
        return int(cast(FileSystem, found).size(path))


@contextmanager
def _raw(url: str) -> Iterator[io.BufferedIOBase]:
    if "://" not in url:
        with open(url, "rb", buffering=BUFFER) as file:
            yield cast(io.BufferedIOBase, file)
        return
    found, path = fsspec.core.url_to_fs(url)
    with reader(cast(FileSystem, found), path) as remote:
        yield remote
