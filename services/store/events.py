"""One stream per job: events, steps, checkpoints and job changes, in order, each once. Imports no gRPC."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from services.quoting import cut
from services.store import keys
from services.store.archived import Archives, order_of
from services.store.codec import build, decode
from services.store.connection import StoreRedis, redis_time
from services.store.errors import BadToken, Fenced, NotFound, OutOfRange
from services.store.pages import Page
from services.store.records import TERMINAL, CheckpointRecord, EventRecord, JobNotice, JobState, StepRecord
from services.store.scripts import Scripts
from services.store.steps import decode_step

#: Longest wait inside Redis, seconds; below every socket timeout.
MAX_BLOCK = 2.0

#: Seconds by which an id may be ahead of Redis's clock, which may have been set back since it was given.
_AHEAD = 60.0

#: Entries read per command where all are.
_RAW_AT_ONCE = 500

_ENTRY_ID = re.compile(r"\d{1,19}-\d{1,19}")

Value = EventRecord | StepRecord | JobNotice | CheckpointRecord


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a job's stream."""

    id: str  #: to go on after it
    kind: str  #: "event", "step", "job", "checkpoint"
    value: Value


class Told(NamedTuple):
    """An event to write."""

    level: str
    type: str
    message: str
    fields: Mapping[str, str]


class RawEntry(NamedTuple):
    """An entry as it is stored."""

    id: str
    kind: str
    text: str


class Events:
    """The streams of all jobs in one Redis."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._archives = Archives(client)

    def append(
        self,
        job_id: str,
        level: str,
        type: str,
        message: str,
        attempt: int = 0,
        *,
        fields: Mapping[str, str] | None = None,
    ) -> str:
        """Add an event; return its id. Raises NotFound for a job that is gone or whose events have expired."""
        table = {str(key): str(value) for key, value in (fields or {}).items()}
        answer = self._scripts.run(
            "say", job=job_id, level=level, type=type, message=message, attempt=attempt, fields=table
        )
        return answer[1]

    def reply(self, job_id: str, attempt: int, step: int, told: Sequence[Told]) -> bool:
        """Tell once what the adapter said after a step; False: an earlier attempt told it.

        Raises Fenced where this attempt has no longer the job.
        """
        events = [one._asdict() for one in told]
        answer = self._scripts.run("reply", job=job_id, attempt=attempt, step=step, events=events)
        if answer[0] == "fenced":
            raise Fenced(f"attempt {attempt} no longer holds job {job_id}")
        return answer[0] == "told"

    def list(self, job_id: str, *, page_size: int = 100, page_token: str = "") -> Page[EventRecord]:
        """List events oldest first, without steps and notices."""
        found: list[EventRecord] = []
        after = page_token
        while len(found) < page_size:
            entries = self.read(job_id, after)
            for entry in entries:
                after = entry.id
                if isinstance(entry.value, EventRecord):
                    found.append(entry.value)
                    if len(found) == page_size:
                        break
            if not entries:
                return Page(found)
        return Page(found, after)

    def read(self, job_id: str, after: str = "", *, count: int = 500, block: float = 0.0) -> Sequence[Entry]:
        """Read entries after the id `after` (empty: from the first), oldest first; waits up to `block` seconds for one.

        Those of a finished job come from its archive once its keys are gone. Raises NotFound without such a job, and
        BadToken for an invalid id or one of the future. Raises OutOfRange where earlier entries of the requested range
        are gone.
        """
        if after and not _ENTRY_ID.fullmatch(after):
            raise BadToken(f"event id {after!r} was not given by this server; give the last one seen, or none")
        look = self._look(job_id, after, count)
        if look.state == "":
            raise NotFound(f"there is no job {cut(job_id)}")
        if after and not look.same and order_of(after)[0] / 1000 > redis_time(self._client) + _AHEAD:
            raise BadToken(f"event id {after!r} lies in the future; give the last one seen, or none")
        if not look.first and (archive := self._archives.of(job_id)) is not None and archive.entries:
            past = order_of(after) if after else (-1, -1)
            left = [(name, {"k": kind, "v": text}) for name, kind, text in archive.entries if order_of(name) > past]
            return [_entry(name, values) for name, values in left[:count]]
        if not look.first or (after and not look.same and order_of(after) < order_of(look.first[0][0])):
            raise OutOfRange(
                f"events of job {job_id} after {after or 'its beginning'} have expired; its steps are in its archive"
            )
        rows = [(name, _pairs(values)) for name, values in look.rows]
        if not rows and block > 0:
            waited = self._client.xread(
                {keys.stream(job_id): after or "0-0"}, count=count, block=max(1, int(min(block, MAX_BLOCK) * 1000))
            )
            found = cast(list[tuple[str, list[tuple[str, dict[str, str]]]]], waited or [])
            rows = found[0][1] if found else []
        return [_entry(name, values) for name, values in rows]

    def raw(self, job_id: str) -> Iterator[RawEntry]:
        """Yield every entry that Redis holds, oldest first, as it is stored."""
        after = "-"
        while True:
            rows = cast(
                list[tuple[str, dict[str, str]]], self._client.xrange(keys.stream(job_id), after, count=_RAW_AT_ONCE)
            )
            yield from (RawEntry(name, values["k"], values["v"]) for name, values in rows)
            if len(rows) < _RAW_AT_ONCE:
                return
            after = "(" + rows[-1][0]

    def everything(self, job_id: str) -> Iterator[Entry]:
        """Yield every entry that Redis holds, oldest first."""
        return (_entry(one.id, {"k": one.kind, "v": one.text}) for one in self.raw(job_id))

    def watch(
        self, job_id: str, after: str = "", *, stop: threading.Event | None = None, deadline: float | None = None
    ) -> Iterator[Entry]:
        """Yield entries as they come, each once, until the job's state is terminal and every entry was read.

        Also ends when `stop` is set (looked at every second) or `deadline` seconds are over.
        """
        end = time.monotonic() + deadline if deadline is not None else float("inf")
        position = after
        while not (stop is not None and stop.is_set()):
            left = end - time.monotonic()
            if left <= 0:
                return
            entries = self.read(job_id, position, block=min(1.0, left))
            for entry in entries:
                position = entry.id
                yield entry
            if not entries and self._is_over(job_id, position):
                return

    def _is_over(self, job_id: str, position: str) -> bool:
        look = self._look(job_id, position, 1)
        return (look.state == "" or JobState(look.state) in TERMINAL) and not look.rows

    def _look(self, job_id: str, after: str, count: int) -> _Look:
        found = cast(list[object], self._scripts.read("entries", job=job_id, after=after, count=count))
        return _Look(*found)  # type: ignore[arg-type]  # as lua/entries.lua answers


_Rows = Sequence[tuple[str, Sequence[str]]]


class _Look(NamedTuple):
    state: str  #: of the job; empty: there is none
    first: _Rows
    same: _Rows  #: the entry that the reader saw last, if it is still there
    rows: _Rows  #: after it


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[0::2], flat[1::2], strict=True))


def _entry(entry_id: str, values: Mapping[str, str]) -> Entry:
    kind, text = values["k"], values["v"]
    if kind == "step":
        return Entry(entry_id, kind, decode_step(text))
    if kind == "checkpoint":
        return Entry(entry_id, kind, decode(CheckpointRecord, text))
    if kind == "job":
        return Entry(entry_id, kind, decode(JobNotice, text))
    table = cast(dict[str, object], json.loads(text))
    stamped = {**table, "id": entry_id, "time": order_of(entry_id)[0] / 1000}
    return Entry(entry_id, kind, cast(EventRecord, build(EventRecord, stamped, "EventRecord")))
