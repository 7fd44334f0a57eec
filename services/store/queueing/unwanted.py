"""Remove dataset files that no record names any more.

A file is named by its content. So another dataset may be about to need the file whose last record was just deleted. Its
maker has written the file, or found it there, and registers the dataset a moment later. A file therefore goes only
after a grace period, in which every maker registers what it wrote. The period counts from the deletion and from the
file's last write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from services.store import keys
from services.store.blobs.files import FileSystem, exists, is_local, locate, remove, store_errors
from services.store.connection import StoreRedis, redis_time
from services.store.scripts import Scripts
from services.store.shards.manifest import SUFFIX, read_manifest

log = logging.getLogger("turnloom.store")

_ASIDE = ".unwanted"  # suffix of a file that is about to go: its address no longer opens it


@dataclass(frozen=True, slots=True)
class UnwantedFile:
    """A file whose last dataset was deleted."""

    sha256: str
    uri: str

    @property
    def member(self) -> str:
        """Return the file's name on the list."""
        return f"{self.sha256} {self.uri}"


class Unwanted:
    """The list of such files; Datasets.delete writes it."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client
        self._scripts = Scripts(client)

    def due(self, grace: float) -> Sequence[UnwantedFile]:
        """Return files that have been on the list for `grace` seconds, oldest first."""
        until = redis_time(self._client) - grace
        members = cast(list[str], self._client.zrangebyscore(keys.UNWANTED, "-inf", until))
        return [UnwantedFile(*member.split(" ", 1)) for member in members]

    def is_wanted(self, file: UnwantedFile) -> bool:
        """Return whether a dataset needs the file again; if so, take it off the list."""
        answer = self._scripts.run("unwanted", content=keys.content(file.sha256), file=file.member)
        return answer[0] == "wanted"

    def forget(self, file: UnwantedFile) -> None:
        """Take the file off the list."""
        self._client.zrem(keys.UNWANTED, file.member)


def remove_unwanted(unwanted: Unwanted, grace: float) -> int:
    """Remove the files that no dataset has needed for `grace` seconds.

    Each is set aside under another name first and looked at again. One that came to be needed meanwhile goes back. In
    an object store, setting it aside takes a copy and a deletion, between which its maker may rewrite it. There the
    second look comes `grace` seconds later. A process that dies in between leaves it on the list, and the next call
    goes on.

    Returns:
        How many files it removed.

    Raises:
        StoreUnavailable, RedisUnavailable: what was done until then holds.
    """
    removed = 0
    for file in unwanted.due(grace):
        system, path = locate(file.uri)
        with store_errors(file.uri):
            if unwanted.is_wanted(file):
                _put_back(system, file.uri, path)
                continue
            if system.exists(path):
                if _age(system, path) < grace:  # written again since: its maker may be about to register it
                    continue
                system.mv(path, path + _ASIDE)
            if not is_local(system) and system.exists(path + _ASIDE) and _age(system, path + _ASIDE) < grace:
                continue
            if unwanted.is_wanted(file):
                _put_back(system, file.uri, path)
                continue
            if system.exists(path + _ASIDE):
                _remove_shards(file.uri, path)
                system.rm(path + _ASIDE)
                removed += 1
                log.info("removed %s, no dataset has this content", file.uri)
        unwanted.forget(file)
    return removed


def _remove_shards(uri: str, path: str) -> None:
    """Remove the shards of a manifest that was set aside, except those that a newer manifest names."""
    if not path.endswith(SUFFIX):
        return
    kept = set(read_manifest(uri).folders()) if exists(uri) else set()
    for folder in read_manifest(uri + _ASIDE).folders():
        if folder not in kept:
            remove(folder)


def _put_back(system: FileSystem, uri: str, path: str) -> None:
    if not system.exists(path + _ASIDE):
        return
    if system.exists(path):  # written again meanwhile
        _remove_shards(uri, path)
        system.rm(path + _ASIDE)
    else:
        system.mv(path + _ASIDE, path)


def _age(system: FileSystem, path: str) -> float:
    """Return the seconds since the file was last written."""
    return time.time() - system.modified(path).timestamp()
