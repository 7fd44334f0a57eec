"""One stream per job: events, steps, checkpoints and changes of the job, in order, each once. Knows no gRPC."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from . import keys
from .codec import build, decode
from .connection import StoreRedis
from .errors import BadToken, NotFound, OutOfRange
from .pages import Page
from .records import TERMINAL, CheckpointRecord, EventRecord, JobNotice, JobState, StepRecord
from .scripts import Scripts
from .steps import decode_step

#: Longest wait inside Redis, seconds; below every socket timeout.
MAX_BLOCK = 5.0

_ENTRY_ID = re.compile(r"\d{1,19}-\d{1,19}")

Value = EventRecord | StepRecord | JobNotice | CheckpointRecord


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened."""

    id: str  #: to go on after it
    kind: str  #: "event", "step", "job", "checkpoint"
    value: Value


class Events:
    """The streams of all jobs in one Redis."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client
        self._scripts = Scripts(client)

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
        """Add an event; answers its id. Raises NotFound for a job that is not there or whose events have expired."""
        table = json.dumps({str(key): str(value) for key, value in (fields or {}).items()})
        return self._scripts.run("say", job_id, level, type, message, attempt, table)[1]

    def list(self, job_id: str, *, page_size: int = 100, page_token: str = "") -> Page[EventRecord]:
        """Events oldest first, without steps and notices."""
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
        """Entries after the id `after` (empty: from the first), oldest first; waits up to `block` seconds for one.

        Raises NotFound without such a job, BadToken for an id that is none, and OutOfRange where entries that would
        have to come first are gone: the ledger of a finished job stays in its archive only.
        """
        if after and not _ENTRY_ID.fullmatch(after):
            raise BadToken(f"event id {after!r} was not given by this server; give the last one seen, or none")
        pipe = self._client.pipeline()
        pipe.exists(keys.job(job_id))
        pipe.xrange(keys.stream(job_id), count=1)
        pipe.xrange(keys.stream(job_id), f"({after}" if after else "-", count=count)
        pipe.xrange(keys.stream(job_id), after or "-", after or "-", count=1)
        exists, first, rows, same = cast(tuple[int, _Rows, _Rows, _Rows], tuple(pipe.execute()))
        if not exists:
            raise NotFound(f"there is no job {job_id}")
        if not first or (after and not same and _order(after) < _order(first[0][0])):
            raise OutOfRange(
                f"events of job {job_id} after {after or 'its beginning'} have expired; its steps are in its archive"
            )
        if not rows and block > 0:
            waited = self._client.xread(
                {keys.stream(job_id): after or "0-0"}, count=count, block=max(1, int(min(block, MAX_BLOCK) * 1000))
            )
            found = cast(list[tuple[str, _Rows]], waited or [])
            rows = found[0][1] if found else []
        return [_entry(name, values) for name, values in rows]

    def watch(
        self, job_id: str, after: str = "", *, stop: threading.Event | None = None, deadline: float | None = None
    ) -> Iterator[Entry]:
        """Entries as they come, each once, until the job is at a terminal state and nothing is left to say.

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
        pipe = self._client.pipeline()
        pipe.hget(keys.job(job_id), "state")
        pipe.xrevrange(keys.stream(job_id), count=1)
        state, last = cast(tuple[str | None, _Rows], tuple(pipe.execute()))
        ended = state is None or JobState(state) in TERMINAL
        return ended and (not last or (position != "" and _order(last[0][0]) <= _order(position)))


_Rows = list[tuple[str, dict[str, str]]]


def _order(entry_id: str) -> tuple[int, int]:
    time_part, _, sequence = entry_id.partition("-")
    return int(time_part), int(sequence)


def _entry(entry_id: str, values: Mapping[str, str]) -> Entry:
    kind, text = values["k"], values["v"]
    if kind == "step":
        return Entry(entry_id, kind, decode_step(text))
    if kind == "checkpoint":
        return Entry(entry_id, kind, decode(CheckpointRecord, text))
    if kind == "job":
        return Entry(entry_id, kind, decode(JobNotice, text))
    table = cast(dict[str, object], json.loads(text))
    stamped = {**table, "id": entry_id, "time": _order(entry_id)[0] / 1000}
    return Entry(entry_id, kind, cast(EventRecord, build(EventRecord, stamped, "EventRecord")))
