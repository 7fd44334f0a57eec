"""Cache immutable files of the object store on this machine, within a size limit; least recently used go first."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.store.blobs.files import locate, store_errors

_UNFINISHED: Final = ".part"
_GIVEN_UP: Final = 3600.0  # seconds after which an unfinished copy is that of a process that died


@dataclass(frozen=True, slots=True)
class FileCache:
    """Copies in one folder, which several processes may share. A file that is open survives its removal."""

    folder: Path
    limit: int  #: bytes of all copies together

    def fetch(self, uri: str) -> Path | None:
        """Return the copy of an immutable file, made now if need be; None: it exceeds the limit.

        Raises StoreFull, StoreRefused, StoreUnavailable.
        """
        target = self.folder / hashlib.sha256(uri.encode()).hexdigest()
        with store_errors(uri):
            try:
                _used_now(target)
                return target
            except FileNotFoundError:
                pass
            system, path = locate(uri)
            size = int(system.size(path))
            if size > self.limit:
                return None
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make_room(size)
            part = self.folder / f"{secrets.token_hex(8)}{_UNFINISHED}"
            try:
                system.get_file(path, str(part))
                _used_now(part)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        return target

    def _make_room(self, size: int) -> None:
        copies = sorted(self._copies())
        held = sum(one for _, one, _ in copies)
        for used_at, one, path in copies:
            if held + size <= self.limit:
                return
            if path.suffix != _UNFINISHED or time.time() - used_at / 1e9 > _GIVEN_UP:
                path.unlink(missing_ok=True)
                held -= one

    def _copies(self) -> Iterator[tuple[int, int, Path]]:
        """Yield last use (ns since 1970), bytes and path of every copy."""
        for path in self.folder.iterdir():
            try:
                about = path.stat()
            except FileNotFoundError:  # another process made room
                continue
            yield about.st_mtime_ns, about.st_size, path


def _used_now(path: Path) -> None:
    """Note the use of a copy. Its clock tells two uses apart; the kernel's own has steps of milliseconds."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))
