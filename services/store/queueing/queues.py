"""Names of RQ's queues and functions."""

from __future__ import annotations

PREPROCESS_QUEUE = "preprocess"

#: What a worker runs for a ticket of a training job; it takes job_id and attempt.
JOB_FUNCTION = "services.trainer.job.run"


def queue_name(host: str) -> str:
    """Name the one queue of a GPU host."""
    return f"train.{host}"


def ticket_id(job_id: str, attempt: int) -> str:
    """Return RQ's id of the ticket for an attempt: one per attempt, however often it is enqueued."""
    return f"{job_id}-a{attempt}"
