"""Let a process go on with its dataset's next task, while that is the first ticket that waits.

A fork, its first conversations and the pages that it copies cost a quarter of a shard (docs/performance.md). No order
changes: a ticket of another dataset, or a call at the front, is left to the next process.
"""

from __future__ import annotations

import mmap
from typing import Final

from services.preprocess.datasets.sources.dispatch import FUNCTION
from services.store.queueing.queues import PREPROCESS_QUEUE
from services.store.queueing.tickets import Tickets

#: Seconds after which a process begins no other task; SIGTERM waits for the one in work only.
GO_ON: Final = 15.0
_STOPPING: Final = mmap.mmap(-1, 1)  #: shared by the worker's parent and the processes that it forks


def begin_no_more() -> None:
    """Let this process and those forked from it begin no other task."""
    _STOPPING[0] = 1


def next_task(tickets: Tickets, dataset_id: str) -> str | None:
    """Take the ticket of the dataset's next task off the queue and return the task; None: none is first."""
    if _STOPPING[0]:
        return None
    taken = tickets.take_first(PREPROCESS_QUEUE, FUNCTION, lambda call: call.get("dataset_id") == dataset_id)
    return None if taken is None else str(taken["task"])
