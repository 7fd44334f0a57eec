"""Tickets for tasks that have none: what begins the work on a dataset, and what finds the tasks of dead workers.

Light on purpose: the API and the worker's parent, which is forked for every ticket, import it. Knows no file.
"""

from __future__ import annotations

from typing import Final

from services.store.dataset_work import DatasetWork
from services.store.datasets import Datasets
from services.store.errors import NotFound
from services.store.queueing.queues import PREPROCESS_QUEUE
from services.store.queueing.tickets import Tickets
from services.store.records import DatasetState

PLAN: Final = "plan"  #: find the source and cut it into shards, which are named "0", "1", ...
MERGE: Final = "merge"  #: put the shards together
TIDY: Final = "tidy"  #: remove what was kept while the dataset was made
FUNCTION: Final = "services.preprocess.datasets.sources.jobs.run"
ANNOUNCED: Final = 60.0  #: seconds between announcing a dataset and its record, before it counts as never made
#: Seconds that RQ lets a task run; a task that hangs holds one worker, and CancelDataset ends it.
TASK_SECONDS: Final = 86_400


def announce(work: DatasetWork, dataset_id: str) -> None:
    """Before the record is made: whatever happens from now on, the work is found."""
    work.open(dataset_id, PLAN, ANNOUNCED)


def begin(work: DatasetWork, tickets: Tickets, dataset_id: str) -> None:
    """After the record was made; may be repeated."""
    work.begin(dataset_id, PLAN)
    dispatch(work, tickets, dataset_id)


def dispatch(work: DatasetWork, tickets: Tickets, dataset_id: str) -> int:
    """Put a ticket on the queue for each task that is due and has none; answers how many."""
    lost = work.lost(dataset_id)
    for task in lost:
        ticket = tickets.call(
            PREPROCESS_QUEUE, FUNCTION, {"dataset_id": dataset_id, "task": task}, timeout=TASK_SECONDS
        )
        work.ticketed(dataset_id, task, ticket)
    return len(lost)


def sweep(datasets: Datasets, work: DatasetWork, tickets: Tickets) -> None:
    """Look at every dataset that is being made once; every worker does so every few seconds, and any one is enough.

    A dataset that has ended, or never came to be, gets a last task that removes what is left of the work.
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
