"""Run the ticket of a source: claim one task of a dataset, do it, report the outcome.

    plan ──────────────────────────────> 0, 1, 2, ... (shards, in any order, on any worker) ──> merge ──> READY
      └─> scan-0, scan-1, ... ──> choose ──┘   (of a large source)

The claim comes before the heavy imports. A ticket that is no longer needed then costs nothing, and one that is needed
has its lease at once.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
import traceback
from pathlib import Path
from typing import Final

from services.preprocess.datasets.sources.dispatch import CHOOSE, GO_ON, MERGE, PLAN, SCAN, TIDY, dispatch, next_task
from services.preprocess.datasets.sources.lease import Lease, NotWanted
from services.preprocess.datasets.sources.memory import stay_small
from services.preprocess.datasets.sources.task_context import TaskContext
from services.preprocess.settings import read_settings
from services.store.connection import connect, connect_rq
from services.store.dataset_work import MAX_ATTEMPTS, ClaimedTask, DatasetWork, TaskSpent
from services.store.datasets import Datasets
from services.store.errors import Fenced, IllegalEdge, NotFound, RedisUnavailable
from services.store.queueing.tickets import Tickets
from services.store.records import ErrorRecord

LOG = logging.getLogger("turnloom.sources")
DONE: Final = "done"
ROOT: Final = Path(__file__).resolve().parents[4]  #: of our own code


def run(dataset_id: str, task: str) -> str:
    """Do one task, and those of the dataset that follow; return what became of each, for people who look at RQ."""
    began = time.monotonic()
    settings = read_settings(os.environ)  # the horse has its parent's environment
    client, queues = connect(settings.redis_url), connect_rq(settings.redis_url, socket_timeout=10.0)
    try:
        work = DatasetWork(client, settings.shard_lease)
        parts = TaskContext(settings, Datasets(client), work, Tickets(queues))
        outcomes = [_claimed(parts, dataset_id, task)]
        while outcomes[-1] == DONE and time.monotonic() - began < GO_ON:
            following = next_task(parts.tickets, dataset_id)
            if following is None:
                break
            outcomes.append(_claimed(parts, dataset_id, following))
        return ", ".join(outcomes)
    finally:
        client.close()
        queues.close()


def _claimed(parts: TaskContext, dataset_id: str, task: str) -> str:
    holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    try:
        if task == TIDY:
            parts.tidy(dataset_id)
            return "tidied"
        claimed = parts.work.claim(dataset_id, task, holder)
        if claimed is None:
            return "not needed"
        return _done(parts, dataset_id, claimed, Lease(parts.work, dataset_id, task, holder, claimed.bad_shard))
    except TaskSpent as spent:
        parts.fail(dataset_id, _given_up(task, str(spent)))
        return "given up"
    except (IllegalEdge, NotFound, Fenced, NotWanted) as error:
        return str(error)


def _done(parts: TaskContext, dataset_id: str, claimed: ClaimedTask, lease: Lease) -> str:
    stay_small()
    with lease:
        # Imported here, after the claim, should the parent of this process not have done so: they take seconds.
        from services.preprocess.datasets.sources import tasks  # noqa: PLC0415

        try:
            tasks.TASKS.get(lease.task.partition("-")[0], tasks.shard)(
                parts, parts.datasets.get(dataset_id), claimed, lease
            )
        except (IllegalEdge, NotFound, Fenced, NotWanted, RedisUnavailable):
            raise
        except Exception as error:
            record = tasks.failure(error)
            if record is None:  # unforeseen, or the store is away: retry a bounded number of times
                LOG.exception("task failed", extra={"dataset": dataset_id, "task": lease.task})
                parts.work.release(dataset_id, lease.task, lease.holder, _without_words(error))
            else:
                parts.fail(dataset_id, record, tasks.issues_of(error))
            return f"{type(error).__name__}"
    dispatch(parts.work, parts.tickets, dataset_id)
    return DONE


def _without_words(error: Exception) -> str:
    """Return the class of an unforeseen error and where it came from.

    Its message is left out, because it may quote what users wrote.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)]
    last = ours[-1] if ours else frames[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno} in {last.name}"


def _given_up(task: str, last: str) -> ErrorRecord:
    whats = {
        PLAN: "Cutting the source into shards",
        SCAN: f"Reading part {task.partition('-')[2]} of the source",
        CHOOSE: "Choosing among the source's rows",
        MERGE: "Putting the shards together",
    }
    what = whats.get(task.partition("-")[0], f"Shard {task}")
    why = last or "its worker was killed each time, or had too little memory"
    return ErrorRecord(
        "TASK_GIVEN_UP",
        f"{what} was begun {MAX_ATTEMPTS} times and never finished: {why}",
        hint="Read the preprocess workers' logs, then make the dataset again.",
    )
