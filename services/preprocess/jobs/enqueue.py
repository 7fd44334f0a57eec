"""The last step of a new job: from VALIDATING into its host's queue. Knows no protobuf."""

from __future__ import annotations

from services.preprocess.jobs.validate import Checked
from services.store.errors import IllegalEdge
from services.store.records import JobRecord, JobState
from services.store.store import Store


def queued(store: Store, job: JobRecord, checked: Checked, host: str = "") -> JobRecord:
    """The job in its queue; one that a server left VALIDATING when it died is queued by the retry.

    `host`: instead of the one that the check found.
    """
    if job.state is not JobState.VALIDATING:
        return job
    place = host or checked.host
    try:
        there = store.jobs.queue(job.id, host=place, planned_steps=checked.cost.steps, cut=checked.epoch.cut)
    except IllegalEdge:  # the same request, answered by another server at the same time
        return store.jobs.get(job.id)
    store.tickets.enqueue(there)
    return there
