"""Source files opened for reading, local or through fsspec, with one kind of error. Knows no format."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final, Protocol, cast

import fsspec

from services.preprocess.sources.errors import SourceNotReadable

BUFFER: Final = 1 << 20  #: bytes read at once


class Files(Protocol):
    """What is used of an fsspec file system."""

    def open(self, path: str, mode: str) -> IO[bytes]: ...  # noqa: D102  # fsspec's


@contextmanager
def opened(url: str) -> Iterator[io.BufferedIOBase]:
    """A path or URL as bytes, decompressed where its name says so.

    Raises:
        SourceNotReadable: also for what goes wrong while it is read.
    """
    try:
        with _raw(url) as raw:
            yield _plain(url, raw)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, ImportError) as error:
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


def _plain(url: str, raw: io.BufferedIOBase) -> io.BufferedIOBase:
    name = url.lower()
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)
    if name.endswith(".bz2"):
        return bz2.BZ2File(cast(IO[bytes], raw))
    return cast(io.BufferedIOBase, lzma.LZMAFile(cast(IO[bytes], raw))) if name.endswith(".xz") else raw
