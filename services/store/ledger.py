"""Steps and checkpoints of a job, exact at any crash. The rules are in lua/commit_*.lua.

Two sums are kept. One is of the effective series: each step once, as the run that counts trained it. The other is of
all work done: steps trained again count again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import cast

from services.quoting import cut
from services.store import keys
from services.store.archived import Archives
from services.store.codec import decode, encode
from services.store.connection import StoreRedis, redis_time
from services.store.errors import CheckpointNotUsable, NotFound
from services.store.records import CheckpointRecord, Control, StepRecord
from services.store.scripts import Scripts
from services.store.steps import decode_step, encode_step

#: Upper bounds of turnloom_trainer_step_duration_seconds, seconds.
PHASE_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

#: Seconds after which a saved state that no host has found is forgotten: its host is gone for good.
_LEFT_STATES_KEPT = 30 * 86400.0

#: Records read per script call: bounds how long one reader holds up the commits of all runs.
_STEPS_PER_READ = 500


class Outcome(Enum):
    """The result of a commit."""

    OK = "ok"  #: it is in the ledger, now or since an earlier call
    GAP = "gap"  #: steps before it are missing: Redis lost its tail; send again from last + 1
    FENCED = "fenced"  #: another attempt holds the job: end at once


@dataclass(frozen=True, slots=True)
class Commit:
    """The answer to a commit."""

    outcome: Outcome
    last: int  #: last step of the effective series
    checkpoint_step: int  #: step of the last checkpoint; -1: none
    control: Control  #: what the loop is asked to do


class Ledger:
    """Steps and checkpoints in one Redis."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._archives = Archives(client)

    def commit_step(self, job_id: str, record: StepRecord) -> Commit:
        """Append a step, once: the same (attempt, step) again returns OK and is not counted.

        Step 0 is the evaluation before step 1. The step that the attempt began from may come with the evaluation that
        it lacks. Raises StepOutOfOrder for any other step that the attempt's checkpoint holds.
        """
        counters = _phase_counters(record)
        return _commit(self._scripts.run("commit_step", job=job_id, record=encode_step(record), counters=counters))

    def commit_checkpoint(self, job_id: str, record: CheckpointRecord) -> Commit:
        """Add a checkpoint of a committed step, or replace the record with the same id; a copy in the store stays."""
        while True:
            before = cast(str | None, self._client.hget(keys.checkpoints(job_id), record.id)) or ""
            after = record
            if before:
                old = decode(CheckpointRecord, before)
                after = replace(record, stored=old.stored, uri=old.uri, sha256=old.sha256)
            answer = self._scripts.run(
                "commit_checkpoint",
                job=job_id,
                attempt=record.attempt,
                checkpoint=record.id,
                step=record.step,
                before=before,
                record=encode(after),
            )
            if answer[0] != "changed":  # by the thread that copies it
                return _commit(answer)

    def update_checkpoint(
        self,
        job_id: str,
        attempt: int,
        checkpoint_id: str,
        *,
        sampler_path: str | None = None,
        test_nll: float | None = None,
        max_tokens_per_call: int | None = None,
        packed: bool | None = None,
    ) -> CheckpointRecord:
        """Change the given fields of a checkpoint. Raises Fenced, CheckpointNotUsable."""
        given = {"sampler_path": sampler_path, "test_nll": test_nll, "max_tokens_per_call": max_tokens_per_call}
        given["packed"] = packed
        changes = {name: value for name, value in given.items() if value is not None}
        while True:  # another writer of the same record: read again, at most a few times in practice
            before = self._stored_checkpoint(job_id, checkpoint_id)
            record = replace(decode(CheckpointRecord, before), **changes)  # type: ignore[arg-type]  # names are above
            if self._change(job_id, attempt, checkpoint_id, before, encode(record)):
                return record

    def checkpoint_stored(
        self, job_id: str, attempt: int, checkpoint_id: str, *, uri: str, sha256: str, bytes: int
    ) -> CheckpointRecord:
        """Note that a checkpoint of `bytes` bytes is in the store. Raises Fenced, CheckpointNotUsable."""
        while True:
            before = self._stored_checkpoint(job_id, checkpoint_id)
            record = replace(decode(CheckpointRecord, before), stored=True, uri=uri, sha256=sha256)
            answer = self._scripts.run(
                "checkpoint_stored",
                job=job_id,
                attempt=attempt,
                checkpoint=checkpoint_id,
                before=before,
                after=encode(record),
                step=record.step,
                saved=record.time,
                bytes=bytes,
            )
            if answer[0] == "ok":
                return record

    def remove_checkpoint(self, job_id: str, attempt: int, checkpoint_id: str, left: str = "") -> None:
        """Forget a checkpoint whose files are gone. Raises CheckpointNotUsable for the last and the best one.

        `left`: TuFT's path of it, where its files may lie on another host, which then removes them.
        """
        while True:
            before = self._stored_checkpoint(job_id, checkpoint_id)
            if self._change(job_id, attempt, checkpoint_id, before, "", left):
                return

    def left_states(self) -> list[str]:
        """Return TuFT's paths of states that no job has any more: of deleted jobs, and left behind by moved ones."""
        self._client.zremrangebyscore(keys.LEFT_STATES, "-inf", redis_time(self._client) - _LEFT_STATES_KEPT)
        return cast(list[str], self._client.zrange(keys.LEFT_STATES, 0, -1))

    def forget_left_state(self, path: str) -> None:
        """Note that the files of such a state are gone."""
        self._client.zrem(keys.LEFT_STATES, path)

    def checkpoints(self, job_id: str, *, superseded: bool = True) -> list[CheckpointRecord]:
        """Return checkpoints by step and attempt; without `superseded` only those of the effective run."""
        names, texts = cast(
            tuple[list[str], list[str]], tuple(cast(list[object], self._scripts.read("checkpoints", job=job_id)))
        )
        effective = set(names)
        records = [decode(CheckpointRecord, text) for text in texts]
        marked = [replace(record, superseded=record.id not in effective) for record in records]
        return sorted(
            (record for record in marked if superseded or not record.superseded),
            key=lambda record: (record.step, record.attempt),
        )

    def checkpoint(self, job_id: str, checkpoint_id: str = "") -> CheckpointRecord:
        """Return one checkpoint; empty id: the last of the effective run. Raises NotFound."""
        name = checkpoint_id or cast(str | None, self._client.hget(keys.job(job_id), "last_checkpoint"))
        if not name:
            raise NotFound(f"job {job_id} has no checkpoint")
        for record in self.checkpoints(job_id):
            if record.id == name:
                return record
        raise NotFound(f"job {job_id} has no checkpoint {cut(name)}")

    def steps(self, job_id: str, start: int = 1, count: int = 1000) -> list[StepRecord]:
        """Return up to `count` steps of the effective series from step `start` on, each once, in order."""
        found: list[StepRecord] = []
        first, end = max(1, start), max(1, start) + count
        while first < end:
            stop = min(end, first + _STEPS_PER_READ)
            texts = self._scripts.run("steps", job=job_id, first=first, last=stop - 1)
            if not texts and (archived := self._archived(job_id)) is not None:
                records = (decode_step(text) for text in archived)
                return found + [record for record in records if first <= record.step < end]
            found += [decode_step(text) for text in texts]
            if len(texts) < stop - first:
                break
            first = stop
        return found

    def test_nll(self, job_id: str, step: int) -> float | None:
        """Return the test NLL evaluated after one step, nats per unit of weight; None: not evaluated."""
        text = cast(str | None, self._client.hget(keys.tests(job_id), str(step)))
        if not text:
            return None
        nll, weight, _ = text.split()
        return float(nll) / float(weight)

    def initial(self, job_id: str) -> StepRecord | None:
        """Return the evaluation before step 1; None: not evaluated."""
        texts = self._scripts.run("steps", job=job_id, first=0, last=0) or (self._archived(job_id) or ())[:1]
        record = decode_step(texts[0]) if texts else None
        return record if record is not None and record.step == 0 else None

    def all_steps(self, job_id: str) -> Iterator[StepRecord]:
        """Yield every committed step in order of commits, superseded ones included."""
        after = "-"
        while True:
            entries = cast(
                list[tuple[str, dict[str, str]]], self._client.xrange(keys.stream(job_id), after, count=_STEPS_PER_READ)
            )
            for _, values in entries:
                if values["k"] == "step":
                    yield decode_step(values["v"])
            if len(entries) < _STEPS_PER_READ:
                return
            after = "(" + entries[-1][0]

    def _change(self, job_id: str, attempt: int, checkpoint_id: str, before: str, after: str, left: str = "") -> bool:
        answer = self._scripts.run(
            "change_checkpoint",
            job=job_id,
            attempt=attempt,
            checkpoint=checkpoint_id,
            before=before,
            after=after,
            left=left,
        )
        return answer[0] == "ok"

    def _archived(self, job_id: str) -> Sequence[str] | None:
        """Return the effective series' texts in the archive; None: it is in Redis, or the job has no archive."""
        if self._client.exists(keys.series(job_id)):
            return None
        archive = self._archives.of(job_id)
        return archive.effective if archive is not None else None

    def _stored_checkpoint(self, job_id: str, checkpoint_id: str) -> str:
        text = cast(str | None, self._client.hget(keys.checkpoints(job_id), checkpoint_id))
        if text is None:
            raise CheckpointNotUsable(f"job {job_id} has no checkpoint {checkpoint_id}")
        return text


def _commit(answer: list[str]) -> Commit:
    return Commit(Outcome(answer[0]), int(answer[1]), int(float(answer[2])), Control(answer[3]))


def _phase_counters(record: StepRecord) -> dict[str, float | int]:
    """Return a step's addition to the histogram of phase seconds: bucket, sum and count of each phase."""
    counters: dict[str, float | int] = {}
    for phase, seconds in record.phase_seconds.items():
        bound = next((str(limit) for limit in PHASE_BUCKETS if seconds <= limit), "+Inf")
        counters |= {f"phase|{phase}|{bound}": 1, f"phase|{phase}|count": 1, f"phase|{phase}|sum": float(seconds)}
    return counters
