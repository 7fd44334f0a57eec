"""Queue a new job, the last step of its creation. It waits in the pool until a host has a free worker."""

from __future__ import annotations

from services.preprocess.jobs.validate import Checked
from services.store.errors import IllegalEdge
from services.store.records import JobRecord, JobState
from services.store.store import Store


def queued(store: Store, job: JobRecord, checked: Checked) -> JobRecord:
    """Return the job QUEUED; one that a server left VALIDATING when it died is queued by the retry.

    Raises:
        StoreUnavailable: the object store takes no prompts; the job stays VALIDATING until the call is repeated.
    """
    if job.state is not JobState.VALIDATING:
        return job
    if checked.prompts is not None:
        store.replies.put_prompts(job.id, checked.prompts)
    try:
        return store.jobs.queue(job.id, host="", planned_steps=checked.cost.steps, cut=checked.epoch.cut)
    except IllegalEdge:  # the same request, answered by another server at the same time
        return store.jobs.get(job.id)
