"""Leases on the tasks of building a dataset from a source: which process works on which part.

A task is a name ("plan", "0", "1", ..., "merge") with JSON. Its lease is a time in Redis's clock after which no process
works on it any more. RQ carries tickets only: a task without holder and ticket is found by `lost` and gets a new one.
Doing a task twice is harmless, so a lease that ends too early costs work and never a wrong row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from services.store import keys
from services.store.connection import StoreRedis, redis_time
from services.store.queueing.queues import PREPROCESS_QUEUE
from services.store.scripts import Scripts

#: Times that one task may be begun.
MAX_ATTEMPTS: Final = 3
#: Tickets that one look puts on the queue at most.
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class ClaimedTask:
    """A task that this process holds."""

    argument: str  #: JSON
    bad_shard: int | None  #: index of the first shard known to end the dataset; later ones are not needed


class TaskSpent(Exception):
    """A task was begun MAX_ATTEMPTS times and never finished."""


class DatasetWork:
    """The tasks of all datasets in one Redis."""

    def __init__(self, client: StoreRedis, lease_ttl: float = 15.0) -> None:
        """Prepare the leases. Args: lease_ttl: seconds after which a silent holder has lost its task."""
        self._client = client
        self._scripts = Scripts(client)
        self.lease_ttl = lease_ttl

    def open(self, dataset_id: str, task: str, seconds: float = 0.0) -> None:
        """Add the first task, which is due in `seconds`; does nothing if the work has begun."""
        self._scripts.run("work_open", dataset=dataset_id, task=task, seconds=seconds)

    def begin(self, dataset_id: str, task: str) -> None:
        """Make the first task due now, unless it was begun; called once the dataset has its record."""
        self._scripts.run("work_begin", dataset=dataset_id, task=task)

    def overdue(self, dataset_id: str, task: str) -> bool:
        """Return whether a task is late: no process began it in its time."""
        due = self._client.zscore(keys.work_due(dataset_id), task)
        return due is None or due <= redis_time(self._client)

    def replace(self, dataset_id: str, task: str) -> None:
        """Replace every task by this one."""
        self._scripts.run("work_replace", dataset=dataset_id, task=task)

    def making(self) -> list[str]:
        """Return the datasets whose work has not been closed."""
        return sorted(cast(set[str], self._client.smembers(keys.MAKING)))

    def claim(self, dataset_id: str, task: str, holder: str) -> ClaimedTask | None:
        """Claim a task; None: it is done, or another process has it.

        Raises IllegalEdge and NotFound once the dataset is no longer wanted, TaskSpent with the last error's sentence.
        """
        answer = self._scripts.run(
            "work_claim", dataset=dataset_id, task=task, holder=holder, lease=self.lease_ttl, most=MAX_ATTEMPTS
        )
        if answer[0] == "spent":
            raise TaskSpent(answer[1])
        return ClaimedTask(answer[1], _index(answer[2])) if answer[0] == "ok" else None

    def renew(self, dataset_id: str, task: str, holder: str, read: int) -> int | None:
        """Renew a task and publish how many conversations it has read; return the first bad shard, if any.

        Raises IllegalEdge, NotFound, and Fenced when another process has the task.
        """
        answer = self._scripts.run(
            "work_renew", dataset=dataset_id, task=task, holder=holder, lease=self.lease_ttl, read=read
        )
        return _index(answer[1])

    def release(self, dataset_id: str, task: str, holder: str, why: str) -> None:
        """Release a task after an error; it starts again one lease_ttl later, when an outage may be over."""
        self._scripts.run("work_release", dataset=dataset_id, task=task, holder=holder, why=why, seconds=self.lease_ttl)

    def done(
        self,
        dataset_id: str,
        task: str,
        holder: str,
        *,
        bad_shard: int | None = None,
        following: Mapping[str, str] | None = None,
        last_of: str = "",
    ) -> None:
        """Finish a task and start its followers (name to JSON, or to "" where `note` kept it). Raises as `renew`.

        `last_of`: start them only if no task whose name begins so is left; empty: in any case.
        """
        self._scripts.run(
            "work_done",
            dataset=dataset_id,
            task=task,
            holder=holder,
            bad_shard=bad_shard,
            following=following or {},
            last_of=last_of,
        )

    def lost(self, dataset_id: str) -> list[str]:
        """Return due tasks without a ticket; each is named once per lease_ttl, to one caller."""
        queue = f"rq:queue:{PREPROCESS_QUEUE}"
        answer = self._scripts.read("work_lost", dataset=dataset_id, seconds=self.lease_ttl, queue=queue, most=_AT_ONCE)
        return cast(list[str], answer)

    def note(self, dataset_id: str, task: str, argument: str) -> None:
        """Keep the argument of a later task, for `done` to name it with an empty one."""
        self._client.hset(keys.work(dataset_id), f"task:{task}", argument)

    def ticketed(self, dataset_id: str, task: str, ticket: str) -> None:
        """Remember the RQ id of the task's ticket."""
        self._client.hset(keys.work(dataset_id), f"ticket:{task}", ticket)

    def close(self, dataset_id: str) -> None:
        """Delete all of the dataset's work."""
        self._scripts.run("work_close", dataset=dataset_id)


def _index(text: str) -> int | None:
    return int(text) if text else None
