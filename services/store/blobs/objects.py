"""Folders of checkpoints (adapter, optimizer) in the object store, addressed by sha256.

A folder is there when its manifest.json is. The manifest is written last and names every file with size and sha256.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.store.blobs.files import CHUNK, below, copy_in, locate, remove, store_errors, whole_file
from services.store.codec import decode, encode
from services.store.errors import Corrupt, NotFound

_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a folder."""

    name: str  #: path below the folder, with "/"
    bytes: int
    sha256: str  #: hex


@dataclass(frozen=True, slots=True)
class Stored:
    """A folder in the store."""

    uri: str
    sha256: str  #: hex, over names, sizes and hashes of all files
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, slots=True)
class _Manifest:
    files: tuple[FileEntry, ...]


class Objects:
    """Kept checkpoints below one fsspec URL."""

    def __init__(self, store_url: str) -> None:
        self._store_url = store_url

    def put_folder(self, job_id: str, checkpoint_id: str, folder: Path) -> Stored:
        """Copy all files below a local folder into the store. May be repeated; raises StoreFull, StoreUnavailable."""
        files = tuple(_entry(folder, path) for path in sorted(folder.rglob("*")) if path.is_file())
        if not files:
            raise NotFound(f"{folder} holds no file to keep for checkpoint {checkpoint_id}")
        manifest = encode(_Manifest(files))
        digest = hashlib.sha256(manifest.encode()).hexdigest()
        uri = below(self._store_url, "adapters", job_id, checkpoint_id, digest)
        system, path = locate(uri)
        with store_errors(uri):
            known = system.exists(f"{path}/{_MANIFEST}")
        if not known:
            for entry in files:
                copy_in(folder / entry.name, f"{uri}/{entry.name}")
            with whole_file(f"{uri}/{_MANIFEST}") as target:
                target.write(manifest.encode())
        return Stored(uri, digest, files)

    def files(self, uri: str) -> tuple[FileEntry, ...]:
        """List a folder's files. Raises NotFound, and Corrupt for a manifest that doesn't match its address."""
        system, path = locate(uri)
        with store_errors(uri):
            if not system.exists(f"{path}/{_MANIFEST}"):
                raise NotFound(f"there is no complete folder at {uri}")
            with system.open(f"{path}/{_MANIFEST}", "rb") as file:
                manifest = file.read()
        if hashlib.sha256(manifest).hexdigest() != uri.rstrip("/").rsplit("/", 1)[1]:
            raise Corrupt(f"the manifest of {uri} differs from its address")
        return decode(_Manifest, manifest.decode()).files

    def open(self, uri: str, name: str) -> Iterator[bytes]:
        """Yield a file in chunks of at most 1 MiB. Raises NotFound, and Corrupt at the end if the hash differs."""
        entry = next((item for item in self.files(uri) if item.name == name), None)
        if entry is None:
            raise NotFound(f"{uri} holds no file {name}")
        system, path = locate(uri)
        digest = hashlib.sha256()
        with store_errors(f"{uri}/{name}"), system.open(f"{path}/{name}", "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != entry.sha256:
            raise Corrupt(f"{name} of {uri} differs from its sha256 {entry.sha256}")

    def get_folder(self, uri: str, destination: Path) -> tuple[FileEntry, ...]:
        """Copy a folder to a local one, which appears only once every hash matches. Raises Corrupt, NotFound."""
        files = self.files(uri)
        temporary = destination.with_name(f"{destination.name}.{secrets.token_hex(6)}.part")
        try:
            for entry in files:
                target = temporary / entry.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with store_errors(str(target)), target.open("wb") as file:
                    for chunk in self.open(uri, entry.name):
                        file.write(chunk)
            if destination.exists():
                shutil.rmtree(destination)
            temporary.rename(destination)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return files

    def delete(self, uri: str) -> None:
        """Delete one folder."""
        remove(uri)

    def delete_job(self, job_id: str) -> None:
        """Delete all objects of a job, its evaluations, replies and archived ledger included."""
        remove(below(self._store_url, "adapters", job_id))
        remove(below(self._store_url, "evaluations", job_id))
        remove(below(self._store_url, "replies", job_id))
        remove(below(self._store_url, "ledgers", f"{job_id}.parquet"))


def _entry(folder: Path, path: Path) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(path.relative_to(folder).as_posix(), size, digest.hexdigest())
