"""A disk of a few megabytes that a test fills: a tmpfs, for which the test has to be root."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system."""

    folder: Path

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def fill(self) -> None:
        """Write until there is no room for another byte."""
        with self._filler.open("wb", buffering=0) as filler:
            for size in (4096, 1):
                while _written(filler, size):
                    pass

    def empty(self) -> None:
        """Give the room back."""
        self._filler.unlink()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk | None]:
    """Mount a disk over an empty folder; None where this user may not. What is on it goes with it."""
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, check=False)
    if mounted.returncode != 0:
        yield None
        return
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _written(file: BinaryIO, size: int) -> int:
    try:
        return file.write(bytes(size))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return 0
