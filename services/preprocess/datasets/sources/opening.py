"""Open source files for reading, local or through fsspec, with one kind of error."""

from __future__ import annotations

import io
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final, Protocol, cast

import fsspec

from services.preprocess.domain.source_errors import SourceNotReadable
from turnloom.errors import InvalidInput
from turnloom.reading.file_kinds import decompressed

BUFFER: Final = 1 << 20  #: bytes read at once


class Files(Protocol):
    """The methods of an fsspec file system that opening files needs."""

    def open(self, path: str, mode: str) -> IO[bytes]: ...  # noqa: D102  # fsspec's
    def size(self, path: str) -> int: ...  # noqa: D102


@contextmanager
def opened(url: str) -> Iterator[io.BufferedIOBase]:
    """Open a path or URL as bytes, decompressed where its name asks for it.

    Raises:
        SourceNotReadable: also for what goes wrong while it is read.
    """
    try:
        with _raw(url) as raw:
            yield decompressed(url, raw)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, ImportError) as error:
        raise SourceNotReadable(f"{url} can't be read: {error}") from error
    except InvalidInput as error:  # its words begin with the place
        raise SourceNotReadable(error.message, error.hint) from error


def size_of(url: str) -> int:
    """Return the bytes of a path or URL, as it lies there. Raises SourceNotReadable."""
    try:
        if "://" not in url:
            return os.path.getsize(url)
        found, path = fsspec.core.url_to_fs(url)
        return int(cast(Files, found).size(path))
    except (OSError, ValueError, ImportError) as error:
        raise SourceNotReadable(f"{url} can't be read: {error}") from error


@contextmanager
def _raw(url: str) -> Iterator[io.BufferedIOBase]:
    if "://" not in url:
        with open(url, "rb", buffering=BUFFER) as file:
            yield cast(io.BufferedIOBase, file)
        return
    found, path = fsspec.core.url_to_fs(url)
    with cast(Files, found).open(path, "rb") as remote:
        # fsspec's files read lines without a bound; a buffer of our own has one.
        yield remote if isinstance(remote, io.BytesIO) else io.BufferedReader(cast(io.RawIOBase, remote), BUFFER)
