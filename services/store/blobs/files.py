"""Read and write the object store behind one fsspec URL: whole files appear at once or not at all.

A local file is written beside its place and renamed. Object stores have no atomic rename. There a file is written on
this machine first, and one final PUT makes it visible.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from io import BufferedIOBase, BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Final, Protocol, cast

import fsspec
from fsspec.asyn import AsyncFileSystem

from services.store.blobs.deadlines import limit
from services.store.errors import StoreError, StoreFull, StoreRefused, StoreUnavailable

#: Bytes read or copied at a time.
CHUNK = 1 << 20

#: What stores call their refusals, beside errno and HTTP status.
_FULL_CODES: Final = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "StorageFull"})
_DENIED_CODES: Final = frozenset({"AuthorizationHeaderMalformed", "InvalidToken", "Unauthorized", "Forbidden"})
_INSUFFICIENT_STORAGE: Final = 507  # HTTP
#: Packages below fsspec that raise errors of their own.
_CLIENTS: Final = frozenset({"botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "adlfs", "azure", "google"})


class FileSystem(Protocol):
    """The methods of fsspec that the store uses."""

    protocol: str | tuple[str, ...]

    def open(self, path: str, mode: str) -> IO[bytes]: ...  # noqa: D102  # fsspec's
    def exists(self, path: str) -> bool: ...  # noqa: D102
    def makedirs(self, path: str, exist_ok: bool) -> None: ...  # noqa: D102
    def mv(self, source: str, target: str) -> None: ...  # noqa: D102
    def copy(self, source: str, target: str) -> None: ...  # noqa: D102
    def rm(self, path: str, recursive: bool = ...) -> None: ...  # noqa: D102
    def find(self, path: str) -> list[str]: ...  # noqa: D102
    def size(self, path: str) -> int: ...  # noqa: D102
    def modified(self, path: str) -> datetime: ...  # noqa: D102
    def get_file(self, source: str, target: str) -> None: ...  # noqa: D102
    def put_file(self, source: str, target: str) -> None: ...  # noqa: D102


def below(store_url: str, *parts: str) -> str:
    """Return the URL of a path in the store. Raises StoreUnavailable where no store is set."""
    if not store_url:
        raise StoreUnavailable("no object store is set; give TURNLOOM_STORE_URL a folder or an fsspec URL")
    return "/".join([store_url.rstrip("/"), *parts])


def locate(url: str) -> tuple[FileSystem, str]:
    """Return file system and path of a URL. Raises StoreUnavailable for an unknown protocol."""
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise StoreUnavailable(f"the object store {url} can't be opened: {error}") from None
    return cast(FileSystem, system), str(path)


def reader(system: FileSystem, path: str) -> BufferedIOBase:
    """Open a file for reading, with a buffer of our own: fsspec's files read lines without a bound.

    Raises what the file system raises.
    """
    if is_local(system):
        return cast(BufferedIOBase, Path(path).open("rb", buffering=CHUNK))
    opened = system.open(path, "rb")
    return opened if isinstance(opened, BufferedIOBase) else BufferedReader(cast(RawIOBase, opened), CHUNK)


def is_local(system: FileSystem) -> bool:
    """Return whether paths are paths of this machine."""
    return "file" in _protocols(system)


def _protocols(system: FileSystem) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else system.protocol


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Raise failures of the file system as StoreFull, StoreRefused or StoreUnavailable, FileNotFoundError too."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        translated = _translated(url, error)
        if translated is None:
            raise
        raise translated from error


def _translated(url: str, error: Exception) -> StoreError | None:
    code, status = _answer(error)
    number = error.errno if isinstance(error, OSError) else None
    if code in _FULL_CODES or status == _INSUFFICIENT_STORAGE:
        return StoreFull(f"the object store has no room for {url}; free some, then try again")
    if number in (errno.ENOSPC, errno.EDQUOT):
        if "://" in url and not url.startswith(("file://", "memory://")):
            return StoreFull(f"{tempfile.gettempdir()} has no room for a copy on its way to {url}; free some there")
        return StoreFull(f"the object store has no room for {url}; free some, then try again")
    if isinstance(error, PermissionError) or code in _DENIED_CODES or type(error).__name__ == "NoCredentialsError":
        return StoreRefused(f"the object store refuses {url}: {error}; check its key and what that key may do")
    if is_failure(error):
        return StoreUnavailable(f"the object store can't serve {url}: {said(error)}")
    return None


def is_failure(error: Exception) -> bool:
    """Return whether a file system, or the client of a store below it, raised an error about files."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS


def said(error: Exception) -> str:
    """Return what an error of a file system says; a time-out of fsspec says nothing by itself."""
    return str(error) or "there is no answer"


def _answer(error: BaseException) -> tuple[str, int]:
    """Return the code and HTTP status that an S3 client noted on an error or on one of its causes."""
    link: BaseException | None = error
    while link is not None:
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status or 0)
        link = link.__cause__
    return "", 0


class NewFile:
    """A file in progress; `publish` names it and makes it visible. `close` removes what was not published."""

    def __init__(self, folder_url: str) -> None:
        """Begin a file for a folder of the store. Raises StoreFull, StoreRefused, StoreUnavailable."""
        self._url = folder_url
        self._system, self._folder = locate(folder_url)
        self._local = is_local(self._system)
        with store_errors(folder_url):
            if self._local:
                Path(self._folder).mkdir(parents=True, exist_ok=True)
                self._path = Path(self._folder) / f"{secrets.token_hex(8)}.part"
                self.file: IO[bytes] = self._path.open("w+b")
            else:
                handle, path = tempfile.mkstemp(prefix="turnloom-upload-")
                self._path, self.file = Path(path), os.fdopen(handle, "w+b")

    def publish(self, name: str) -> str:
        """Make the file visible as `name` and return its URL; replaces a file of that name."""
        url = f"{self._url}/{name}"
        with store_errors(url):
            self.file.flush()
            if self._local:
                os.fsync(self.file.fileno())
                self.file.close()
                self._path.replace(Path(self._folder) / name)
            else:
                self.file.close()
                _put(self._system, self._path, f"{self._folder}/{name}")
        return url

    def close(self) -> None:
        """Remove what was not published; may be repeated."""
        with suppress(OSError):  # what a full disk could not take need not be flushed
            self.file.close()
        self._path.unlink(missing_ok=True)


@contextmanager
def whole_file(url: str) -> Iterator[IO[bytes]]:
    """Open a file that gets its name only if the block ends well. After an error nothing of it is left."""
    folder, name = url.rsplit("/", 1)
    with store_errors(url):
        new = NewFile(folder)
        try:
            yield new.file
            new.publish(name)
        finally:
            new.close()


def copy_in(source: Path, url: str) -> None:
    """Copy a local file into the store. Raises StoreFull, StoreRefused, StoreUnavailable."""
    system, path = locate(url)
    if not is_local(system):
        with store_errors(url):
            _put(system, source, path)
        return
    with whole_file(url) as target, source.open("rb") as file:
        while chunk := file.read(CHUNK):
            target.write(chunk)


def _put(system: FileSystem, source: Path, path: str) -> None:
    """Upload by one final request. S3 has deadlines of its own (s3.py); other stores get one for the whole file."""
    if isinstance(system, AsyncFileSystem) and "s3" not in _protocols(system):
        system.put_file(str(source), path, timeout=limit(source.stat().st_size))
    else:
        system.put_file(str(source), path)


class Copies(Protocol):
    """A local cache of immutable files (services.store.blobs.cache)."""

    def fetch(self, uri: str) -> Path | None:
        """Return the copy; None: the file exceeds the cache's limit."""


def local_copy(uri: str, stack: ExitStack, cache: Copies | None) -> str:
    """Return the path of a file on this machine; a copy outside the cache goes with `stack`."""
    system, path = locate(uri)
    if is_local(system):
        return path
    cached = cache.fetch(uri) if cache is not None else None
    if cached is not None:
        return str(cached)
    folder = Path(tempfile.mkdtemp(prefix="turnloom-dataset-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    with store_errors(uri):
        system.get_file(path, str(folder / "data.arrow"))
    return str(folder / "data.arrow")


def exists(url: str) -> bool:
    """Return whether a file or folder exists."""
    system, path = locate(url)
    with store_errors(url):
        return system.exists(path)


def remove(url: str) -> None:
    """Delete a file or folder; a missing one is not an error."""
    system, path = locate(url)
    with store_errors(url):
        if system.exists(path):
            system.rm(path, recursive=True)


def try_store(store_url: str) -> None:
    """Write, read, list and delete a small file. Raises what store_errors raises, naming the failed operation."""
    folder, content = below(store_url, f".trial-{secrets.token_hex(8)}"), secrets.token_bytes(16)
    url = f"{folder}/file"
    system, path = locate(url)
    with whole_file(url) as file:
        file.write(content)
    try:
        with store_errors(url):
            with reader(system, path) as back:
                if back.read() != content:
                    raise StoreUnavailable(f"the object store {store_url} gives back something else than was written")
            if len(system.find(path.rsplit("/", 1)[0])) != 1:
                raise StoreUnavailable(f"the object store {store_url} does not list a file that was just written")
    finally:
        remove(folder)
    if exists(url):
        raise StoreUnavailable(f"the object store {store_url} keeps a file that was deleted")
