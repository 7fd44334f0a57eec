"""Records of datasets. Files are in shards/dataset_files.py."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from services.quoting import cut
from services.store import keys
from services.store.codec import decode, encode
from services.store.connection import StoreRedis
from services.store.errors import NotFound, RequestMismatch
from services.store.pages import Filter, Page, dataset_groups
from services.store.queueing.unwanted import UnwantedFile
from services.store.records import DatasetRecord, DatasetState, ErrorRecord, Histogram, IssueRecord
from services.store.scripts import Scripts

#: Seconds between two looks at a dataset that is watched.
_WATCH_INTERVAL = 0.25


@dataclass(frozen=True, slots=True)
class CreatedDataset:
    """A dataset, and whether an earlier call with this request_id made it."""

    dataset: DatasetRecord
    deduplicated: bool


class Datasets:
    """All datasets in one Redis."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client
        self._scripts = Scripts(client)

    def create(self, record: DatasetRecord, *, request_id: str = "", content_hash: str = "") -> CreatedDataset:
        """Add a dataset, CREATING or already READY, or find the one that this owner's request_id made.

        `content_hash`: digest of the request; empty: of the record without id and times. Raises RequestMismatch.
        """
        made = replace(record, create_time=record.create_time or time.time())
        if made.state is DatasetState.READY:
            made = replace(made, ready_time=made.ready_time or time.time())
        digest = content_hash or _digest(replace(record, id="", create_time=0.0, ready_time=0.0))
        answer = self._scripts.run(
            "register",
            key=keys.dataset(record.id),
            index=keys.DATASETS,
            owned=keys.owned("datasets", record.owner),
            id=record.id,
            record=encode(made),
            state=made.state.value,
            hash=digest,
            request=keys.request("dataset", record.owner, request_id) if request_id else "",
            time=round(made.create_time * 1_000_000),
            content=keys.content(made.sha256) if made.state is DatasetState.READY else "",
        )
        return CreatedDataset(self.get(answer[1]), answer[0] == "known")

    def find_request(self, owner: str, request_id: str, content_hash: str) -> DatasetRecord | None:
        """Find the dataset that a request_id made; None: unknown. Raises RequestMismatch for other content."""
        made = cast(dict[str, str], self._client.hgetall(keys.request("dataset", owner, request_id)))
        if not made:
            return None
        if made["hash"] != content_hash:
            raise RequestMismatch(f"this request_id made {made['id']} from other content; use a new request_id")
        return self.get(made["id"])

    def get(self, dataset_id: str) -> DatasetRecord:
        """Return one dataset. Raises NotFound."""
        stored = cast(dict[str, str], self._client.hgetall(keys.dataset(dataset_id)))
        if not stored:
            raise NotFound(f"there is no dataset {cut(dataset_id)}")
        return _read(stored)

    def has_content(self, sha256: str) -> bool:
        """Return whether a dataset of this address is READY."""
        return bool(self._client.exists(keys.content(sha256)))

    def list(
        self,
        *,
        page_size: int = 100,
        page_token: str = "",
        state: DatasetState | None = None,
        owner: str | None = None,
    ) -> Page[DatasetRecord]:
        """List datasets newest first, without issues, warnings and histograms. `owner` None: of every owner."""
        listed = Filter(
            self._client,
            dataset_groups(self._client, state.value if state is not None else None, owner),
            self._bare,
            lambda record: state in (None, record.state) and owner in (None, record.owner),
        )
        return listed.page(page_token, page_size)

    def _bare(self, names: Sequence[str]) -> Sequence[DatasetRecord | None]:
        """Read records without issues, warnings and histograms."""
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(keys.dataset(name))
        tables = cast(Sequence[Mapping[str, str]], pipe.execute())
        without = {"issues": (), "warnings": (), "length_histogram": Histogram(), "loss_token_histogram": Histogram()}
        return [replace(_read(table), **without) if table else None for table in tables]  # type: ignore[arg-type]  # names and types are above

    def progress(self, dataset_id: str, *, conversations_read: int, shards: int | None = None) -> None:
        """Record a dataset's progress. Raises IllegalEdge unless CREATING, which stops its maker."""
        self._scripts.run("dataset_progress", dataset=dataset_id, read=conversations_read, shards=shards)

    def shard_done(self, dataset_id: str, index: int, shard_json: str) -> int:
        """Record one shard's result, once per index; return how many are done. Raises IllegalEdge as `progress`."""
        return int(self._scripts.run("dataset_progress", dataset=dataset_id, shard=index, result=shard_json)[1])

    def shards(self, dataset_id: str) -> dict[int, str]:
        """Return the results of finished shards, by index."""
        found = cast(dict[str, str], self._client.hgetall(keys.shards(dataset_id)))
        return {int(index): found[index] for index in sorted(found, key=int)}

    def ready(self, record: DatasetRecord) -> DatasetRecord:
        """Change CREATING -> READY, in one transaction and only with all shards there. Raises IllegalEdge.

        `record` carries sha256, uri and totals. May be repeated with the same record.
        """
        made = replace(record, state=DatasetState.READY, ready_time=record.ready_time or time.time())
        self._end(made, keys.content(made.sha256))
        return self.get(record.id)

    def fail(self, dataset_id: str, error: ErrorRecord, issues: Sequence[IssueRecord] = ()) -> DatasetRecord:
        """Change CREATING -> FAILED."""
        record = replace(self.get(dataset_id), state=DatasetState.FAILED, error=error, issues=tuple(issues)[:50])
        self._end(record, "")
        return self.get(dataset_id)

    def cancel(self, dataset_id: str) -> DatasetRecord:
        """Change CREATING -> CANCELLED; its maker learns of it at the next `progress`."""
        self._end(replace(self.get(dataset_id), state=DatasetState.CANCELLED), "")
        return self.get(dataset_id)

    def delete(self, dataset_id: str) -> None:
        """Delete a dataset's record. A file without other datasets goes on the list of unwanted ones (unwanted.py).

        Raises InUse while an unfinished job uses it, or while it is made.
        """
        record = self.get(dataset_id)
        content = keys.content(record.sha256) if record.sha256 else ""
        file = UnwantedFile(record.sha256, record.uri).member
        owned = keys.owned("datasets", record.owner)
        self._scripts.run("dataset_delete", dataset=dataset_id, owned=owned, content=content, file=file)

    def watch(
        self, dataset_id: str, *, stop: threading.Event | None = None, deadline: float | None = None
    ) -> Iterator[DatasetRecord]:
        """Yield the record now and after every change, up to the final one; `stop` or `deadline` seconds end it."""
        end = time.monotonic() + deadline if deadline is not None else float("inf")
        waiting = stop or threading.Event()
        seen = ""
        while time.monotonic() < end and not waiting.is_set():
            stored = cast(dict[str, str], self._client.hgetall(keys.dataset(dataset_id)))
            if not stored:
                raise NotFound(f"there is no dataset {cut(dataset_id)}")
            if stored["version"] != seen:
                seen = stored["version"]
                yield _read(stored)
            if stored["state"] != DatasetState.CREATING.value:
                return
            waiting.wait(min(_WATCH_INTERVAL, max(0.0, end - time.monotonic())))

    def _end(self, record: DatasetRecord, content: str) -> None:
        self._scripts.run(
            "dataset_end", dataset=record.id, state=record.state.value, record=encode(record), content=content
        )


def _read(stored: Mapping[str, str]) -> DatasetRecord:
    record = decode(DatasetRecord, stored["record"])
    if record.state is not DatasetState.CREATING:
        return record
    return replace(
        record,
        conversations_read=int(stored.get("conversations_read", 0)),
        shards=int(stored.get("shards", 0)),
        shards_done=int(stored.get("shards_done", 0)),
    )


def _digest(record: DatasetRecord) -> str:
    return hashlib.sha256(encode(record).encode()).hexdigest()
