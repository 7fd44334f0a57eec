"""Tickets for tasks: begin the work on a dataset, find the tasks of dead workers, and go on with the next one.

Keep the imports light: the API and the worker's parent, which forks for every ticket, import this module.
"""

from __future__ import annotations

import mmap
from typing import Final

from services.store.dataset_work import DatasetWork
from services.store.datasets import Datasets
from services.store.errors import NotFound
from services.store.queueing.queues import PREPROCESS_QUEUE
from services.store.queueing.tickets import Tickets
from services.store.records import DatasetState

PLAN: Final = "plan"  #: find the source and cut it into shards, which are named "0", "1", ...
SCAN: Final = "scan"  #: look at a part of a large source; such tasks are named "scan-0", "scan-1", ...
CHOOSE: Final = "choose"  #: cut a source into shards by what its parts gave
MERGE: Final = "merge"  #: put the shards together
TIDY: Final = "tidy"  #: remove what was kept while the dataset was made
FUNCTION: Final = "services.preprocess.datasets.sources.jobs.run"
ANNOUNCED: Final = 60.0  #: seconds between announcing a dataset and its record, before it counts as never made
#: Seconds that RQ lets a task run; a task that hangs holds one worker, and CancelDataset ends it.
TASK_SECONDS: Final = 86_400
#: Seconds after which a process begins no other task; SIGTERM waits for the one in work only.
GO_ON: Final = 15.0
_STOPPING: Final = mmap.mmap(-1, 1)  #: shared by the worker's parent and the processes that it forks


def announce(work: DatasetWork, dataset_id: str) -> None:
    """Register the work before the record is created, so that it is found whatever happens from now on."""
    work.open(dataset_id, PLAN, ANNOUNCED)


def begin(work: DatasetWork, tickets: Tickets, dataset_id: str) -> None:
    """Begin the work after the record was created; may be repeated."""
    work.begin(dataset_id, PLAN)
    dispatch(work, tickets, dataset_id)


def dispatch(work: DatasetWork, tickets: Tickets, dataset_id: str) -> int:
    """Put a ticket on the queue for each task that is due and has none, and return how many."""
    lost = work.lost(dataset_id)
    for task in sorted(lost, key=_number):
        ticket = tickets.call(
            PREPROCESS_QUEUE, FUNCTION, {"dataset_id": dataset_id, "task": task}, timeout=TASK_SECONDS
        )
        work.ticketed(dataset_id, task, ticket)
    return len(lost)


def _number(task: str) -> int:
    """Return the place of a shard in the source, so that the first row that ends the dataset is found early."""
    return int(task.rpartition("-")[2]) if task[-1].isdigit() else 0


def sweep(datasets: Datasets, work: DatasetWork, tickets: Tickets) -> None:
    """Look once at every dataset that is being made.

    Every worker does so every few seconds, and any one is enough. A dataset that has ended, or was never created,
    gets a last task that removes leftover work.
    """
    for dataset_id in work.making():
        try:
            ended = datasets.get(dataset_id).state is not DatasetState.CREATING
        except NotFound:
            ended = work.overdue(dataset_id, PLAN)
            if not ended:
                continue
        if ended:
            work.replace(dataset_id, TIDY)
        dispatch(work, tickets, dataset_id)


def begin_no_more() -> None:
    """Let this process and those forked from it begin no other task."""
    _STOPPING[0] = 1


def next_task(tickets: Tickets, dataset_id: str) -> str | None:
    """Take the ticket at the queue's head if it is of the same dataset, and return its task.

    A fork, its first conversations and the pages that it copies cost a seventh of a shard. No order changes: a ticket
    of another dataset, or a call at the front, is left to the next process.
    """
    if _STOPPING[0]:
        return None
    taken = tickets.take_first(PREPROCESS_QUEUE, FUNCTION, lambda call: call.get("dataset_id") == dataset_id)
    return None if taken is None else str(taken["task"])
