"""Jobs and their state changes. Every change is one script in lua/. Imports no trainer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from services.store import keys
from services.store.codec import decode, encode
from services.store.connection import StoreRedis, redis_time
from services.store.errors import QuotaReached
from services.store.ids import new_id
from services.store.job_reader import JobReader
from services.store.records import CheckpointRecord, Control, CutReport, ErrorRecord, JobRecord, JobSpec, JobState
from services.store.scripts import Scripts

#: Attempts in a row without a committed step before a job fails.
MAX_IDLE_ATTEMPTS = 3
#: Attempts in a row that pass no step reached before: a crash that replayed steps hide from the first limit.
MAX_STALLED_ATTEMPTS = 20
#: Seconds after which a validation that nobody renews is lost.
VALIDATION_LEASE = 60.0


@dataclass(frozen=True, slots=True)
class Created:
    """A job, and whether an earlier call with this request_id made it."""

    job: JobRecord
    deduplicated: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of a worker's claim."""

    job: JobRecord
    checkpoint: CheckpointRecord | None  #: to go on from; None: begin fresh, or as spec.start_from says


class Jobs(JobReader):
    """All jobs in one Redis, read and changed.

    `lease_ttl`: seconds without a renewal after which a worker counts as dead. `quota`: jobs of one owner that `create`
    and `resume` let into the queue (VALIDATING or QUEUED); 0: any number. Both raise QuotaReached.
    """

    def __init__(self, client: StoreRedis, lease_ttl: float = 15.0, quota: int = 0) -> None:
        super().__init__(client)
        self._scripts = Scripts(client)
        self.lease_ttl = lease_ttl
        self.quota = quota

    # What the API does.

    def create(self, spec: JobSpec, *, request_id: str = "", content_hash: str = "", planned_steps: int = 0) -> Created:
        """Make a VALIDATING job, or find the one that this owner's request_id made with the same content.

        `content_hash` is any digest of the request; empty: of the spec. Raises RequestMismatch for other content and
        NotFound or IllegalEdge for a dataset that isn't there or isn't READY.
        """
        request = keys.request("job", spec.owner, request_id) if request_id else ""
        names = (*(part.dataset for part in spec.training), spec.test_dataset)
        datasets = dict.fromkeys(name for name in names if name)
        others = [spec.start_from.job] if spec.start_from else []
        text = encode(spec)
        digest = content_hash or _digest(text)
        lease = _milliseconds(VALIDATION_LEASE)
        answer = self._scripts.run(
            "create",
            job=new_id("job"),
            spec=text,
            hash=digest,
            request=request,
            planned_steps=planned_steps,
            lease=lease,
            datasets=list(datasets),
            jobs=others,
            lists=_lists(spec),
            quota=self.quota,
        )
        return Created(self.get(answer[1]), answer[0] == "known")

    def check_room(self, owner: str, jobs: int) -> None:
        """Check that so many jobs more of an owner fit into the queue. Raises QuotaReached."""
        there = self._client.scard(keys.queue(owner))
        if self.quota and there + jobs > self.quota:
            who = f"owner {owner}" if owner else "the owner"
            many = f"{there} {'job' if there == 1 else 'jobs'}"
            raise QuotaReached(f"{who} has {many} in the queue, and {jobs} more would be over the quota: {self.quota}")

    def queue(self, job_id: str, *, host: str, planned_steps: int, cut: CutReport | None = None) -> JobRecord:
        """Change VALIDATING -> QUEUED. The caller enqueues the ticket; if it dies first, the supervisor does."""
        self._scripts.run("queue", job=job_id, host=host, planned_steps=planned_steps, cut=encode(cut or CutReport()))
        return self.get(job_id)

    def reject(self, job_id: str, error: ErrorRecord) -> JobRecord:
        """Change VALIDATING -> FAILED."""
        self._scripts.run("reject", job=job_id, error=encode(error))
        return self.get(job_id)

    def index(self) -> None:
        """Add the jobs of earlier versions to the indexes, once."""
        if self._client.exists(keys.INDEXED):
            return
        for job in self._read(cast(Sequence[str], self._client.zrange(keys.JOBS, 0, -1))):
            if job is not None:
                self._scripts.run("reindex", job=job.id, lists=_lists(job.spec))
        self._client.set(keys.INDEXED, 1)

    def index_rungs(self) -> None:
        """Add cells that a worker of an earlier version left at a rung to their index. Asks for every PAUSED job."""
        names = self.names_in((JobState.PAUSED,))
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hget(keys.job(name), "rung")
        known = set(cast(Sequence[str], self._client.zrange(keys.RUNGS, 0, -1)))
        for name, rung in zip(names, cast(Sequence["str | None"], pipe.execute()), strict=True):
            if rung and name not in known:
                self._scripts.run("reindex", job=name, lists=[])

    def cancel(self, job_id: str) -> JobRecord:
        """Cancel a job; a terminal one is unchanged. A PAUSING job is cancelled once it has paused."""
        self._scripts.run("steer", job=job_id, wish="cancel")
        return self.get(job_id)

    def pause(self, job_id: str) -> JobRecord:
        """Change RUNNING -> PAUSING."""
        self._scripts.run("steer", job=job_id, wish="pause")
        return self.get(job_id)

    def resume(self, job_id: str, checkpoint: str = "", host: str | None = None) -> JobRecord:
        """Change PAUSED, FAILED, CANCELLED -> QUEUED, from the last or a chosen checkpoint.

        `host`: where it goes on; None: where it was, empty: in the pool. The caller enqueues the ticket of a host.
        """
        self._scripts.run("resume", job=job_id, checkpoint=checkpoint, host=host, quota=self.quota)
        return self.get(job_id)

    def move(
        self, job_id: str, from_host: str, to_host: str, message: str, *, checkpoint: str = "", lost: bool = False
    ) -> bool:
        """Move a QUEUED job to another host, empty: to the pool; False: it is no longer queued on `from_host`.

        `checkpoint`: to go on from instead of the last one. `lost`: its host is, which is not the job's fault.
        """
        hosts = {"from": from_host, "to": to_host}
        answer = self._scripts.run("move", job=job_id, message=message, checkpoint=checkpoint, lost=lost, **hosts)
        return answer[0] == "ok"

    def ask_move(self, job_id: str, to_host: str) -> None:
        """Ask a RUNNING job to save, copy its checkpoint to the store and go to another host (empty: to any)."""
        self._scripts.run("ask_move", job=job_id, to=to_host)

    def delete(self, job_id: str) -> JobRecord:
        """Delete a job in a terminal state; the caller removes its objects. Raises InUse."""
        job = self.get(job_id)
        self._scripts.run("delete", job=job_id, lists=_lists(job.spec))
        return job

    def with_objects_left(self, grace: float) -> list[str]:
        """Return jobs that were deleted `grace` seconds ago or earlier and may still have objects in the store."""
        until = redis_time(self._client) - grace
        return cast(list[str], self._client.zrangebyscore(keys.LEFT_OBJECTS, "-inf", until))

    def objects_removed(self, job_id: str) -> None:
        """Note that a deleted job has no objects any more."""
        self._client.zrem(keys.LEFT_OBJECTS, job_id)

    # What a worker does.

    def claim(
        self,
        job_id: str,
        attempt: int,
        worker: str,
        host: str = "",
        price: float | None = None,
        currency: str = "",
    ) -> Claim | None:
        """Claim a queued job, only as attempt current + 1; None: drop the ticket, an event says why.

        The same call cuts the effective series at the checkpoint that the attempt goes on from. `worker` names this
        process and no other: a claim whose answer was lost may be repeated by the same worker. `host`: a job that was
        given to another one meanwhile is not claimed. `price` is that of an hour in which the worker holds the job, in
        `currency`; None: not known.
        """
        answer = self._scripts.run(
            "claim",
            job=job_id,
            attempt=attempt,
            worker=worker,
            host=host,
            lease=_milliseconds(self.lease_ttl),
            price="" if price is None else price,
            currency=currency,
        )
        if answer[0] == "dropped":
            return None
        checkpoint = cast(str | None, self._client.hget(keys.checkpoints(job_id), answer[1])) if answer[1] else None
        return Claim(self.get(job_id), decode(CheckpointRecord, checkpoint) if checkpoint else None)

    def renew(self, job_id: str, attempt: int) -> Control:
        """Renew the lease for another lease_ttl. Raises Fenced."""
        lease = _milliseconds(self.lease_ttl)
        return Control(self._scripts.run("renew", job=job_id, attempt=attempt, lease=lease)[1])

    def preempt(self, job_id: str, attempt: int, reason: str) -> None:
        """Ask the loop to save and leave, at its next commit or renewal. Raises Fenced."""
        self._scripts.run("preempt", job=job_id, attempt=attempt, reason=reason)

    def set_adapter(self, job_id: str, attempt: int, uri: str, sha256: str) -> None:
        """Record the location of the final adapter. Raises Fenced."""
        self._scripts.run("adapter", job=job_id, attempt=attempt, uri=uri, sha256=sha256)

    def finish(
        self,
        job_id: str,
        attempt: int,
        state: JobState,
        error: ErrorRecord | None = None,
        *,
        adapter_uri: str = "",
        adapter_sha256: str = "",
    ) -> JobRecord:
        """Finish attempt and job. While CANCELLING every end is CANCELLED, while PAUSING every end is PAUSED.

        May be repeated by the same attempt. Raises Fenced, and IllegalEdge for a state that isn't an end.
        """
        self._scripts.run(
            "finish",
            job=job_id,
            attempt=attempt,
            state=state.value,
            error=encode(error) if error else "",
            adapter_uri=adapter_uri,
            adapter_sha256=adapter_sha256,
        )
        return self.get(job_id)

    def release(
        self, job_id: str, attempt: int, reason: str, message: str, *, error: ErrorRecord | None = None
    ) -> JobRecord:
        """End the attempt and requeue the job: RUNNING -> QUEUED, where the caller enqueues the ticket.

        PAUSING and CANCELLING come to their ends instead. The third attempt in a row without a committed step makes
        the job FAILED with the last error. Reason "preempted" isn't counted. Raises Fenced.
        """
        self._scripts.run(
            "release",
            job=job_id,
            attempt=attempt,
            reason=reason,
            message=message,
            error=encode(error) if error else "",
            idle_limit=MAX_IDLE_ATTEMPTS,
            stalled_limit=MAX_STALLED_ATTEMPTS,
        )
        return self.get(job_id)

    def count(self, name: str, label: str) -> None:
        """Increment a worker counter of the exporter: "retries", "resumes" or "checkpoints", and its label."""
        self._client.hincrby(keys.COUNTERS, f"{name}|{label}", 1)

    # What the supervisor does.

    def expire(self, job_id: str) -> bool:
        """End an attempt or validation whose lease has expired; False: it is held, or needs no lease."""
        lost = ErrorRecord(
            "WORKER_LOST",
            "The worker stopped renewing its lease: it was killed, or its host or network is down.",
            hint="A worker killed by signal 9 usually ran out of memory; see the logs of its host.",
        )
        check = ErrorRecord(
            "VALIDATION_LOST", "The API process that checked this job ended first.", hint="Create it again."
        )
        answer = self._scripts.run(
            "expire",
            job=job_id,
            lost=encode(lost),
            unchecked=encode(check),
            idle_limit=MAX_IDLE_ATTEMPTS,
            stalled_limit=MAX_STALLED_ATTEMPTS,
        )
        return answer[0] == "ended"

    def host_lost(self, job_id: str, host: str, message: str) -> None:
        """Add an event to a queued job, once per wait, that its host is silent."""
        self._scripts.run("host_lost", job=job_id, host=host, message=message)

    def archived(self, job: JobRecord, uri: str, keep_seconds: float) -> bool:
        """Note the archive and let the ledger's keys expire; False: the job has changed meanwhile."""
        stored = cast(str | None, self._client.hget(keys.job(job.id), "finish_time")) or ""
        if stored == "" or float(stored) != job.finish_time:
            return False
        answer = self._scripts.run(
            "archived", job=job.id, finish_time=stored, uri=uri, milliseconds=_milliseconds(keep_seconds)
        )
        return answer[0] == "ok"


def _lists(spec: JobSpec) -> list[str]:
    """Return the keys of the indexes by owner and label that name a job."""
    return [keys.owner(spec.owner), *(keys.label(key, value) for key, value in spec.metadata.items())]


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
