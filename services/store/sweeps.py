"""Records of sweeps: groups of jobs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from services.quoting import cut
from services.store import keys
from services.store.codec import decode, encode
from services.store.connection import StoreRedis
from services.store.errors import NotFound, RequestMismatch
from services.store.pages import Page, newest, owned_index
from services.store.records import SweepRecord
from services.store.scripts import Scripts


@dataclass(frozen=True, slots=True)
class CreatedSweep:
    """A sweep, and whether an earlier call with this request_id made it."""

    sweep: SweepRecord
    deduplicated: bool


class Sweeps:
    """All sweeps in one Redis."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client
        self._scripts = Scripts(client)

    def create(self, record: SweepRecord, *, request_id: str = "", content_hash: str = "") -> CreatedSweep:
        """Add a sweep without jobs, or find the one that this owner's request_id made. Raises RequestMismatch."""
        made = replace(record, create_time=record.create_time or time.time(), jobs=())
        bare = encode(replace(record, id="", create_time=0.0, jobs=()))
        answer = self._scripts.run(
            "register",
            key=keys.sweep(record.id),
            index=keys.SWEEPS,
            owned=keys.owned("sweeps", record.owner),
            id=record.id,
            record=encode(made),
            state="",
            hash=content_hash or hashlib.sha256(bare.encode()).hexdigest(),
            request=keys.request("sweep", record.owner, request_id) if request_id else "",
            time=round(made.create_time * 1_000_000),
            content="",
        )
        return CreatedSweep(self.get(answer[1]), answer[0] == "known")

    def find_request(self, owner: str, request_id: str, content_hash: str) -> SweepRecord | None:
        """Find the sweep that a request_id made; None: unknown. Raises RequestMismatch for other content."""
        made = cast(dict[str, str], self._client.hgetall(keys.request("sweep", owner, request_id)))
        if not made:
            return None
        if made["hash"] != content_hash:
            raise RequestMismatch(f"this request_id made {made['id']} from other content; use a new request_id")
        return self.get(made["id"])

    def add_job(self, sweep_id: str, job_id: str) -> None:
        """Append a job, once."""
        self._scripts.run("sweep_add", key=keys.sweep(sweep_id), list=keys.sweep_jobs(sweep_id), job=job_id)

    def get(self, sweep_id: str) -> SweepRecord:
        """Return one sweep with its jobs. Raises NotFound."""
        found = self._load([sweep_id])
        if not found:
            raise NotFound(f"there is no sweep {cut(sweep_id)}")
        return found[0]

    def list(self, *, page_size: int = 100, page_token: str = "", owner: str | None = None) -> Page[SweepRecord]:
        """List sweeps newest first. `owner` None: of every owner."""
        index = owned_index(self._client, keys.SWEEPS, "sweeps", owner)
        names = newest(self._client, index, page_token, page_size + 1)
        more = names[page_size - 1][1] if len(names) > page_size else ""
        return Page(self._load([name for name, _ in names[:page_size]]), more)

    def _load(self, names: Sequence[str]) -> Sequence[SweepRecord]:
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(keys.sweep(name))
            pipe.lrange(keys.sweep_jobs(name), 0, -1)
        found = pipe.execute()
        tables = cast(Sequence[Mapping[str, str]], found[0::2])
        jobs = cast(Sequence[Sequence[str]], found[1::2])
        return [
            replace(decode(SweepRecord, table["record"]), jobs=tuple(members))
            for table, members in zip(tables, jobs, strict=True)
            if table
        ]
