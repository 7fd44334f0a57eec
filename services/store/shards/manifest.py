"""A dataset's manifest: the list of its shards. A JSON file named by the dataset's address."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from services.store.blobs.files import below, exists, locate, store_errors, whole_file
from services.store.errors import Corrupt
from services.store.shards.files import ShardFile, Totals

VERSION: Final = 2  #: of the dataset's format; 1 is a single file without a manifest
SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A dataset as its shards, in order of their conversations."""

    sha256: str
    options_json: str
    shards: Sequence[ShardFile]
    index: str  #: URL of the index of all rows
    replaced: Sequence[str] = ()  #: folders of shards that earlier manifests of this content named; all go with it

    def folders(self) -> list[str]:
        """Return the URLs of all folders to remove with the dataset, those of its own files first."""
        uris = [self.index, *(shard.uri for shard in self.shards)]
        return list(dict.fromkeys([*(_maker(uri) for uri in uris), *self.replaced]))


def shards_folder(store_url: str, owner: str) -> str:
    """Return the URL of the folder for the shards that one maker writes; a dataset has its own."""
    return below(store_url, "datasets", "shards", owner)


def manifest_uri(store_url: str, sha256: str) -> str:
    """Return the URL of the manifest of a dataset."""
    return f"{below(store_url, 'datasets')}/{sha256}{SUFFIX}"


def write_manifest(store_url: str, manifest: Manifest) -> None:
    """Write a manifest beside the shards' folder. Raises what `whole_file` raises.

    One of the same content is replaced, since it may be about to be removed. Jobs that have read it go on with its
    shards, whose folders this one then names.
    """
    folder, uri = below(store_url, "datasets"), manifest_uri(store_url, manifest.sha256)
    shards = [
        {"sha256": shard.sha256, "file": _relative(shard.uri, folder), "first": shard.first, "last": shard.last}
        | asdict(shard.totals)
        for shard in manifest.shards
    ]
    earlier = read_manifest(uri).folders() if exists(uri) else []
    replaced = [_relative(name, folder) for name in earlier if name not in manifest.folders()]
    table: dict[str, object] = {"version": VERSION, "sha256": manifest.sha256, "options": manifest.options_json}
    table |= {"index": _relative(manifest.index, folder), "replaced": replaced, "shards": shards}
    with whole_file(uri) as file:
        file.write(json.dumps(table, indent=1).encode() + b"\n")


def read_manifest(uri: str) -> Manifest:
    """Read a manifest.

    Raises:
        StoreUnavailable, StoreRefused: it isn't there.
        Corrupt: it is something else.
    """
    system, path = locate(uri)
    with store_errors(uri), system.open(path, "rb") as file:
        text = file.read()
    try:
        table = json.loads(text)
        if table["version"] != VERSION:
            raise Corrupt(f"{uri} has version {table['version']}, not {VERSION}; read it with its own Turnloom")
        folder = uri.rsplit("/", 1)[0]
        replaced = [f"{folder}/{name}" for name in table["replaced"]]
        shards = [_shard(shard, folder) for shard in table["shards"]]
        return Manifest(table["sha256"], table["options"], shards, f"{folder}/{table['index']}", replaced)
    except (ValueError, KeyError, TypeError) as error:
        why = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
        raise Corrupt(f"{uri} is not a dataset's manifest: {why}") from None


def _shard(table: dict[str, object], folder: str) -> ShardFile:
    totals = {name: table[name] for name in Totals.__slots__}
    return ShardFile(
        str(table["sha256"]),
        f"{folder}/{table['file']}",
        Totals(**totals),  # type: ignore[arg-type]  # Corrupt says which file, should a hand have written it
        int(str(table["first"])),
        int(str(table["last"])),
    )


def _maker(uri: str) -> str:
    """Return the URL of the folder of a shard's maker: the one below `shards`."""
    before, name, after = uri.rpartition("/datasets/shards/")
    return before + name + after.split("/", 1)[0]


def _relative(uri: str, folder: str) -> str:
    """Return a shard's place relative to its manifest, so that a store can be moved as a whole."""
    if not uri.startswith(folder + "/"):
        raise ValueError(f"{uri} does not lie below {folder}")
    return uri[len(folder) + 1 :]
