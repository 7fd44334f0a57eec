"""Read the ledger of a finished job from its archive, once its keys have left Redis."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import pyarrow.parquet as pq

from services.store import keys
from services.store.blobs.files import locate, store_errors
from services.store.connection import StoreRedis

ENTRIES = b"turnloom.entries"  #: of the file's metadata: what the job's stream held beside steps, as JSON


@dataclass(frozen=True, slots=True)
class Archive:
    """A job's stream and series."""

    effective: tuple[str, ...]  #: text of each step of the effective series, in order; step 0 first where there is one
    entries: tuple[tuple[str, str, str], ...]  #: id, kind and text of every entry of the stream, in order


class Archives:
    """Archived ledgers of the jobs in one Redis. The last few that were read stay in memory."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client

    def of(self, job_id: str) -> Archive | None:
        """Return the archive of a job; None: it has none. Raises StoreUnavailable."""
        found = cast(list[str | None], self._client.hmget(keys.job(job_id), "archive_uri", "finish_time"))
        return _read(found[0], found[1] or "") if found[0] else None


@lru_cache(maxsize=8)
def _read(uri: str, _finish_time: str) -> Archive:
    """Read a file. A job that was resumed has another finish time at the same address."""
    system, path = locate(uri)
    with store_errors(uri), system.open(path, "rb") as file:
        table = pq.read_table(file)
    records = table["record"].to_pylist()
    effective = tuple(text for text, counts in zip(records, table["effective"].to_pylist(), strict=True) if counts)
    if "entry" not in table.column_names:  # of an earlier version
        return Archive(effective, ())
    others = json.loads((table.schema.metadata or {}).get(ENTRIES, b"[]"))
    steps = [(name, "step", text) for name, text in zip(table["entry"].to_pylist(), records, strict=True)]
    entries = sorted([*steps, *(tuple(one) for one in others)], key=lambda one: order_of(one[0]))
    return Archive(effective, tuple(entries))


def order_of(entry_id: str) -> tuple[int, int]:
    """Return the sort key of stream entries."""
    time_part, _, sequence = entry_id.partition("-")
    return int(time_part), int(sequence)
