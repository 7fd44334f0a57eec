"""Read jobs: one, some, or a page of them by state, label and owner. Changes nothing; jobs.py does."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import cast

from services.quoting import cut
from services.store import keys
from services.store.connection import StoreRedis
from services.store.errors import NotFound, RequestMismatch
from services.store.job_record import read_job
from services.store.pages import Filter, Page
from services.store.records import HELD, JobRecord, JobState

log = logging.getLogger("turnloom.store")


class JobReader:
    """All jobs in one Redis, to be read."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client

    def find_request(self, owner: str, request_id: str, content_hash: str) -> JobRecord | None:
        """Find the job that a request_id made; None: unknown. Raises RequestMismatch for other content."""
        made = cast(dict[str, str], self._client.hgetall(keys.request("job", owner, request_id)))
        if not made:
            return None
        if made["hash"] != content_hash:
            raise RequestMismatch(f"this request_id made {made['id']} from other content; use a new request_id")
        return self.get(made["id"])

    def get(self, job_id: str) -> JobRecord:
        """Return one job, read atomically. Raises NotFound."""
        stored = cast(dict[str, str], self._client.hgetall(keys.job(job_id)))
        if not stored:
            raise NotFound(f"there is no job {cut(job_id)}")
        return read_job(job_id, stored)

    def list(
        self,
        *,
        page_size: int = 100,
        page_token: str = "",
        states: Collection[JobState] = (),
        metadata: Mapping[str, str] | None = None,
        owner: str | None = None,
    ) -> Page[JobRecord]:
        """List jobs newest first. Empty `states`: all; `metadata`: jobs with all these labels; `owner` None: any."""
        wanted = dict(metadata or {})

        def matches(job: JobRecord) -> bool:
            known = owner in (None, job.spec.owner) and (not states or job.state in states)
            return known and wanted.items() <= dict(job.spec.metadata).items()

        listed = Filter(self._client, self._groups(states, wanted, owner), self._read, matches)
        return listed.page(page_token, page_size)

    def active(self) -> Sequence[JobRecord]:
        """Return every job in a non-terminal state, in no order."""
        names = sorted(cast(set[str], self._client.smembers(keys.ACTIVE)))
        return [job for job in self._read(names) if job is not None]

    def in_states(self, states: Collection[JobState]) -> Sequence[JobRecord]:
        """Return the jobs in any of these states, oldest first within each."""
        return [job for job in self._read(self.names_in(states)) if job is not None]

    def at_rungs(self) -> Sequence[JobRecord]:
        """Return the jobs that stand PAUSED at a rung of their sweep, oldest first. Asks for no other PAUSED job."""
        return self.get_many(cast(Sequence[str], self._client.zrange(keys.RUNGS, 0, -1)))

    def get_many(self, names: Collection[str]) -> Sequence[JobRecord]:
        """Return those of these jobs that exist."""
        return [job for job in self._read(names) if job is not None]

    def names_in(self, states: Collection[JobState], paused_since: float | None = None) -> Sequence[str]:
        """Return the ids of jobs in any of these states, state by state in their order.

        Of PAUSED jobs, which add up, `paused_since` keeps those that paused since then (seconds since 1970).
        """
        pipe = self._client.pipeline(transaction=False)
        for state in states:
            if state is JobState.PAUSED and paused_since is not None:
                pipe.zrangebyscore(keys.PAUSED, paused_since, "+inf")
            else:
                pipe.zrange(keys.state(state.value), 0, -1)
        return [name for names in cast(Sequence[Sequence[str]], pipe.execute()) for name in names]

    def number_in(self, state: JobState) -> int:
        """Return the number of jobs in a state."""
        return self._client.zcard(keys.state(state.value))

    def finished(self, since: float, until: float) -> Sequence[JobRecord]:
        """Return jobs that ended between two times (seconds since 1970, both included)."""
        names = cast(list[str], self._client.zrangebyscore(keys.FINISHED, since, until))
        return [job for job in self._read(names) if job is not None]

    def unarchived(self) -> Sequence[JobRecord]:
        """Return jobs in a terminal state whose ledger is in Redis only."""
        names = sorted(cast(set[str], self._client.smembers(keys.UNARCHIVED)))
        return [job for job in self._read(names) if job is not None]

    def unheld(self) -> Sequence[JobRecord]:
        """Return jobs that lacked a needed lease when asked; `expire` looks again before it acts."""
        names = self.names_in((*HELD, JobState.VALIDATING))
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.exists(keys.lease(name))
        return self.get_many([name for name, held in zip(names, pipe.execute(), strict=True) if not held])

    def _groups(
        self, states: Collection[JobState], labels: Mapping[str, str], owner: str | None
    ) -> Sequence[Sequence[str]]:
        """Return the groups of indexes that narrow a list; that of all jobs where they may lack older ones."""
        groups = [[keys.state(state.value) for state in states]] if states else []
        groups += [[keys.owner(owner)]] if owner is not None else []
        groups += [[keys.label(key, value)] for key, value in labels.items()]
        return groups if groups and self._client.exists(keys.INDEXED) else [[keys.JOBS]]

    def _read(self, names: Collection[str]) -> Sequence[JobRecord | None]:
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(keys.job(name))
        stored = cast(list[dict[str, str]], pipe.execute())
        return [_readable(name, table) for name, table in zip(names, stored, strict=True)]


def _readable(name: str, table: Mapping[str, str]) -> JobRecord | None:
    """Read one of many jobs: a broken record must not hide or stop the others. `get` raises for it."""
    try:
        return read_job(name, table) if table else None
    except (ValueError, KeyError) as error:
        log.error("job %s is left out, its record can't be read: %s", name, error)
        return None
