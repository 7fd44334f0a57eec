"""Choose the checkpoint from which a job can go on at another host."""

from __future__ import annotations

from services.store.errors import NoHost
from services.store.ledger import Ledger
from services.store.records import JobRecord


def start_elsewhere(ledger: Ledger, job: JobRecord) -> str:
    """Return the newest checkpoint of the effective run that is in the store; empty: the job has trained no step.

    Raises:
        NoHost: there is none, so only the host that saved it can go on; the sentence says why.
    """
    stored = [one for one in ledger.checkpoints(job.id, superseded=False) if one.stored]
    if stored:
        return stored[-1].id
    if job.step == 0:
        return ""
    raise NoHost(f"no checkpoint of job {job.id} is in the store, so only host {job.host} can go on with it")
