"""Store uploaded files below one fsspec URL that all copies of the service share.

OWNER/FILE_ID/content       the bytes as they came
OWNER/FILE_ID/file.json     written last: a file is there when this is
OWNER/FILE_ID/notes/NAME    small remarks on the file: which datasets were made of it
.notices/...                who is told of jobs (notices.py)
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BufferedIOBase
from typing import IO, Any, Final, cast
from urllib.parse import quote, unquote

from fsspec.spec import AbstractBufferedFile

from services.rest.gateway import Caller
from services.rest.problems import AWAY_SECONDS, Problem, missing
from services.store.blobs.files import is_local, locate, reader, store_errors
from services.store.errors import StoreError, StoreFull

LOG = logging.getLogger("turnloom.rest")

ID: Final = re.compile(r"file-[0-9a-f]{24}")
LEFTOVER_SECONDS: Final = 86_400.0  #: after which an upload that never ended is removed
NOBODY: Final = "_"  #: folder of files without an owner; no token has this name
CHUNK: Final = 1 << 20  #: bytes read at a time
PART: Final = 8 << 20  #: bytes of an upload that an object store gets at once, and that wait in memory until then


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file that was uploaded whole."""

    id: str  #: "file-" and 24 characters
    owner: str  #: name of the token that sent it; empty: the server has no tokens
    filename: str
    purpose: str
    bytes: int
    sha256: str  #: hex
    created_at: int  #: seconds since 1970
    expires_at: int | None = None  #: seconds since 1970; None: never

    @property
    def expired(self) -> bool:
        """Return whether the file has expired and can no longer be found."""
        return self.expires_at is not None and self.expires_at <= time.time()


def file_id(owner: str, key: str = "") -> str:
    """Return a new id; with an Idempotency-Key always the same one for its owner."""
    text = f"{owner}\0{key}" if key else secrets.token_hex(32)
    return f"file-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


class FileStore:
    """Files by owner and id. Every method answers a store that fails with a Problem."""

    def __init__(self, url: str) -> None:
        self._url = url
        with faults():
            system, root = locate(url)
        self._system = cast(Any, system)
        self._local = is_local(system)
        self._root = root.rstrip("/")
        self._once = threading.Lock()  # uploads with one Idempotency-Key come at once

    @contextmanager
    def writing(self, owner: str, identity: str) -> Iterator[IO[bytes]]:
        """Open a new file's content; after an error, or without put(), nothing of it is found."""
        path = f"{self._folder(owner, identity)}/content"
        with faults():
            self._system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            file = self._system.open(path, "wb", block_size=PART)
        try:
            with faults():
                yield file
                if self._local:
                    file.flush()
                    os.fsync(file.fileno())
                file.close()
        except BaseException:
            _abandon(file)
            with suppress(Problem):
                self.drop(owner, identity)
            raise

    def put(self, file: StoredFile) -> None:
        """Make a written file visible."""
        self._write(f"{self._folder(file.owner, file.id)}/file.json", json.dumps(asdict(file)))

    def drop(self, owner: str, identity: str) -> None:
        """Remove what was written."""
        self._remove(self._folder(owner, identity))

    def put_once(self, file: StoredFile, written: str) -> StoredFile:
        """Make a file that was written under another id visible, or return the one that has its id: the first wins."""
        with self._once:
            known = self.find(file.owner, file.id)
            if known is None:
                self._rename(file.owner, written, file.id)
                self.put(file)
                return file
        self.drop(file.owner, written)
        return known

    def _rename(self, owner: str, identity: str, final: str) -> None:
        target = self._folder(owner, final)
        with faults():
            self._system.makedirs(target, exist_ok=True)
            self._system.mv(f"{self._folder(owner, identity)}/content", f"{target}/content")
        self.drop(owner, identity)

    def get(self, identity: str, caller: Caller) -> StoredFile:
        """Return a file that the caller may look at."""
        found = self.find(caller.name, identity)
        if found is None and caller.only is None:
            found = self._found([owner for owner in self._owners() if owner != caller.name], identity)
        if found is None:
            raise missing("file", identity)
        return found

    def find(self, owner: str, identity: str) -> StoredFile | None:
        """Return the file of an owner, or None."""
        return self._found([owner], identity)

    def all_of(self, caller: Caller) -> list[StoredFile]:
        """Return all files that the caller may look at, in no order."""
        owners = self._owners() if caller.only is None else [caller.name]
        names = [f"{folder}/file.json" for owner in owners for folder in self._folders(owner)]
        return self._read_all(names)

    def open(self, file: StoredFile) -> BufferedIOBase:
        """Open the content."""
        with faults():
            return reader(self._system, f"{self._folder(file.owner, file.id)}/content")

    def chunks(self, file: StoredFile) -> Iterator[bytes]:
        """Yield the content, 1 MiB at a time."""
        with self.open(file) as content:
            while chunk := content.read(CHUNK):
                yield chunk

    def delete(self, file: StoredFile, caller: Caller) -> None:
        """Remove a file that the caller may change.

        Raises:
            Problem: somebody else sent it.
        """
        if file.owner != caller.name and not caller.admin:
            raise Problem(
                403,
                f"File {file.id!r} was sent with another token; use that one, or one with the scope admin.",
                code="insufficient_permissions",
            )
        folder = self._folder(file.owner, file.id)
        with faults(), suppress(FileNotFoundError):
            self._system.rm(f"{folder}/file.json")  # first, so that half of it is never found
        self._remove(folder)

    def note(self, file: StoredFile, name: str) -> str:
        """Return a remark on a file; empty: there is none."""
        return self.read_small(f"{_owner_folder(file.owner)}/{file.id}/notes/{name}")

    def take_note(self, file: StoredFile, name: str, text: str) -> None:
        """Keep a remark on a file, for as long as the file is there."""
        self._write(f"{self._folder(file.owner, file.id)}/notes/{name}", text)

    def write_small(self, name: str, text: str) -> None:
        """Write a small file below the root, whole or not at all."""
        self._write(f"{self._root}/{name}", text)

    def read_small(self, name: str) -> str:
        """Return a small file's text; empty: there is none."""
        with faults():
            try:
                return str(self._system.cat_file(f"{self._root}/{name}").decode())
            except FileNotFoundError:
                return ""

    def remove_small(self, name: str) -> None:
        """Remove a small file, if it is there."""
        with faults(), suppress(FileNotFoundError):
            self._system.rm(f"{self._root}/{name}")

    def small_files(self, folder: str) -> list[str]:
        """Return the names in a folder below the root."""
        return [_last(path) for path in self._below(f"{self._root}/{folder}")]

    def sweep(self) -> int:
        """Remove files that expired and uploads that never ended; returns how many."""
        removed = 0
        for owner in self._owners():
            for folder in self._folders(owner):
                if self._lost(folder):
                    self._remove(folder)
                    removed += 1
        return removed

    def _lost(self, folder: str) -> bool:
        with faults(), suppress(FileNotFoundError):
            if self._system.exists(f"{folder}/file.json"):
                file = _record(self._system.cat_file(f"{folder}/file.json"))
                return file is not None and file.expired
            return bool(time.time() - self._system.modified(f"{folder}/content").timestamp() > LEFTOVER_SECONDS)
        return False

    def _folder(self, owner: str, identity: str) -> str:
        return f"{self._root}/{_owner_folder(owner)}/{identity}"

    def _owners(self) -> list[str]:
        names = [name for name in map(_last, self._below(self._root)) if not name.startswith(".")]
        return [unquote(name) if name != NOBODY else "" for name in names]

    def _folders(self, owner: str) -> list[str]:
        return self._below(self._folder(owner, "").rstrip("/"))

    def _below(self, folder: str) -> list[str]:
        with faults():
            try:
                return [str(name).rstrip("/") for name in self._system.ls(folder, detail=False, refresh=True)]
            except FileNotFoundError:
                return []

    def _found(self, owners: Iterable[str], identity: str) -> StoredFile | None:
        """Return the file of the first of these owners who has it; None too for what is no file's id."""
        if ID.fullmatch(identity) is None:
            return None
        return next(iter(self._read_all([f"{self._folder(owner, identity)}/file.json" for owner in owners])), None)

    def _read_all(self, paths: list[str]) -> list[StoredFile]:
        """Return the files of these file.json that are there and have not expired; an object store reads them at once.

        The order is that of the paths.
        """
        files = []
        with faults():
            for text in self._system.cat_ranges(paths, None, None, on_error="return"):
                if isinstance(text, FileNotFoundError | NotADirectoryError):
                    continue
                if isinstance(text, BaseException):
                    raise text
                files.append(_record(text))
        return [file for file in files if file is not None and not file.expired]

    def _write(self, path: str, text: str) -> None:
        """Write a small file that is there whole or not at all."""
        with faults():
            self._system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            if not self._local:
                self._system.pipe_file(path, text.encode())  # one request, which object stores take whole
                return
            temporary = f"{path}.{secrets.token_hex(6)}"
            self._system.pipe_file(temporary, text.encode())
            self._system.mv(temporary, path)

    def _remove(self, path: str) -> None:
        with faults(), suppress(FileNotFoundError):
            self._system.rm(path, recursive=True)


def _record(text: bytes) -> StoredFile | None:
    """Return what a file.json says; None: a machine that lost power, or a person, left something else there."""
    try:
        return StoredFile(**json.loads(text))
    except (ValueError, TypeError) as error:
        LOG.warning("a file.json of the file store can't be read, and its file is not shown: %s", error)
        return None


def _owner_folder(owner: str) -> str:
    return quote(owner, safe="") or NOBODY


def _last(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _abandon(file: Any) -> None:
    """Close a file that nobody wants; closing one of an object store would complete its upload."""
    if not isinstance(file, AbstractBufferedFile):
        file.close()
    elif not file.closed:
        with suppress(Exception):  # a store that failed once fails here, too; it drops open uploads in time
            file.discard()
        file.closed = True


@contextmanager
def faults() -> Iterator[None]:
    """Raise failures of the file store as Problems; FileNotFoundError passes only where a caller handles it inside."""
    try:
        with store_errors("uploads"):
            yield
    except StoreFull as error:
        raise Problem(
            507, "The file store is full; delete files, or ask its operator for room.", kind="server_error"
        ) from error
    except StoreError as error:
        LOG.warning("file store: %s", error)
        kind = type(error.__cause__ or error).__name__
        raise Problem(
            503,
            f"The file store can't be used ({kind}); try again, or ask its operator.",
            kind="server_error",
            code="file_store_unavailable",
            retry_after=AWAY_SECONDS,
        ) from error
