"""The object store behind one fsspec URL: whole files appear at once or not at all. Knows no file's content."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import IO, Protocol, cast

import fsspec

from services.store.errors import StoreFull, StoreUnavailable

#: Bytes read or copied at a time.
CHUNK = 1 << 20


class FileSystem(Protocol):
    """What is used of fsspec."""

    protocol: str | tuple[str, ...]

    def open(self, path: str, mode: str) -> IO[bytes]: ...  # noqa: D102  # fsspec's
    def exists(self, path: str) -> bool: ...  # noqa: D102
    def makedirs(self, path: str, exist_ok: bool) -> None: ...  # noqa: D102
    def mv(self, source: str, target: str) -> None: ...  # noqa: D102
    def rm(self, path: str, recursive: bool = ...) -> None: ...  # noqa: D102
    def find(self, path: str) -> list[str]: ...  # noqa: D102
    def modified(self, path: str) -> datetime: ...  # noqa: D102
    def get_file(self, source: str, target: str) -> None: ...  # noqa: D102


def below(store_url: str, *parts: str) -> str:
    """URL of something in the store. Raises StoreUnavailable where no store is set."""
    if not store_url:
        raise StoreUnavailable("no object store is set; give TURNLOOM_STORE_URL a folder or an fsspec URL")
    return "/".join([store_url.rstrip("/"), *parts])


def locate(url: str) -> tuple[FileSystem, str]:
    """File system and path of a URL. Raises StoreUnavailable for an unknown protocol."""
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise StoreUnavailable(f"the object store {url} can't be opened: {error}") from None
    return cast(FileSystem, system), str(path)


def is_local(system: FileSystem) -> bool:
    """Whether paths are paths of this machine."""
    names = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
    return "file" in names


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Failures of the file system arrive as StoreFull or StoreUnavailable, FileNotFoundError too."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"the object store has no room for {url}; free some, then try again") from error
        raise StoreUnavailable(f"the object store can't serve {url}: {error}") from error


@contextmanager
def whole_file(url: str) -> Iterator[IO[bytes]]:
    """A file that gets its name only when the block ends well; after an error nothing of it is left."""
    system, path = locate(url)
    temporary = f"{path}.{secrets.token_hex(6)}.part"
    with store_errors(url):
        system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        done = False
        try:
            with system.open(temporary, "wb") as file:
                yield file
                file.flush()
                if is_local(system):
                    os.fsync(file.fileno())
            system.mv(temporary, path)
            done = True
        finally:
            if not done and system.exists(temporary):
                system.rm(temporary)


def exists(url: str) -> bool:
    """Whether there is a file or folder."""
    system, path = locate(url)
    with store_errors(url):
        return system.exists(path)


def remove(url: str) -> None:
    """Delete a file or folder; one that isn't there is no error."""
    system, path = locate(url)
    with store_errors(url):
        if system.exists(path):
            system.rm(path, recursive=True)
