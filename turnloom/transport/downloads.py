"""Write downloaded chunks to files; a file gets its final name only once its sha256 matches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from turnloom.errors import DamagedDownload, InvalidInput
from turnloom.v1 import training_pb2


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file that arrived complete."""

    path: Path
    size: int  #: bytes
    sha256: str  #: hex, checked


def save_files(chunks: Iterable[training_pb2.DownloadAdapterResponse], folder: Path) -> list[SavedFile]:
    """Write the files one by one, each through a .part file beside it.

    Raises:
        DamagedDownload: a file is too short or its sha256 differs; its .part file is removed.
        InvalidInput: the folder is not writable.
    """
    saved: list[SavedFile] = []
    iterator = iter(chunks)
    chunk = next(iterator, None)
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        while chunk is not None:
            first = chunk
            path = folder / _plain(first.file)
            part = path.with_name(path.name + ".part")
            try:
                with part.open("wb") as file:
                    digest, size, chunk = _write(file, first, iterator)
                if size != first.file_bytes or digest != first.file_sha256:
                    raise DamagedDownload(
                        f"{first.file} arrived with {size} of {first.file_bytes} bytes, sha256 {digest[:12]} instead of"
                        f" {first.file_sha256[:12]}.",
                        hint="Download it again; if it happens twice, the copy in the store is damaged.",
                    )
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            saved.append(SavedFile(path, size, digest))
    if not saved:
        raise DamagedDownload("The server sent no file.", hint="Look at the checkpoints: `turnloom checkpoints JOB`.")
    return saved


def _write(
    file: BinaryIO, first: training_pb2.DownloadAdapterResponse, rest: Iterator[training_pb2.DownloadAdapterResponse]
) -> tuple[str, int, training_pb2.DownloadAdapterResponse | None]:
    """Write one file; return its sha256, its size and the first chunk of the next file."""
    digest, size = hashlib.sha256(), 0
    chunk: training_pb2.DownloadAdapterResponse | None = first
    while chunk is not None and chunk.file == first.file:
        digest.update(chunk.data)
        size += file.write(chunk.data)
        chunk = next(rest, None)
    return digest.hexdigest(), size, chunk


def _plain(name: str) -> str:
    """Return the name if it is a plain file name; paths from a server are not trusted."""
    if not name or name != Path(name).name or name in (".", ".."):
        raise DamagedDownload(f"The server sent a file named {name!r}, which is not a plain name; it was not written.")
    return name


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"{error.filename or folder} can't be written: {error.strerror or error}.", hint="Name another folder."
        ) from error
