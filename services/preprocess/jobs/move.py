"""Move a job to another host on request."""

from __future__ import annotations

from services.preprocess.domain.refusals import WrongState
from services.store.errors import IllegalEdge, NoHost
from services.store.pool.moving import start_elsewhere
from services.store.records import JobRecord, JobState
from services.store.store import Store


def move(store: Store, job: JobRecord, host: str) -> JobRecord:
    """Return the job on its way: QUEUED elsewhere, or RUNNING until it has saved and copied a checkpoint.

    Args:
        store: where it is written.
        job: as it was read.
        host: the target; empty: any other.

    Raises:
        NoHost: no live host but its own serves it, or `host` does not.
        WrongState: it is on that host, its checkpoint is not in the store, or it asks for its host and none is named.
        IllegalEdge: it is neither QUEUED nor RUNNING.
    """
    if job.state not in (JobState.QUEUED, JobState.RUNNING):
        raise IllegalEdge(f"job {job.id} is {job.state.name}, only a QUEUED or RUNNING job is moved")
    if host and host == job.host:
        raise WrongState(f"Job {job.id!r} is on host {host!r}.")
    if not host and job.spec.host and job.host in {"", job.spec.host}:  # the pool would give it to that host again
        raise WrongState(f"Job {job.id!r} asks for host {job.spec.host!r}; name the host that it shall move to.")
    rank = job.spec.hyperparameters.lora_rank
    able = [one.name for one in store.hosts.able(job.spec.tuft_model, rank, host) if one.name != job.host]
    if not able:
        raise NoHost(f"no live host but {job.host} serves model {job.spec.tuft_model} at LoRA rank {rank}")
    if job.state is not JobState.QUEUED:
        store.jobs.ask_move(job.id, host)
        return store.jobs.get(job.id)
    try:
        checkpoint = start_elsewhere(store.ledger, job) if job.host else ""
    except NoHost as error:
        raise WrongState(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
    to = f"host {host}" if host else "another host"
    if store.jobs.move(job.id, job.host, host, f"Moved by request to {to}.", checkpoint=checkpoint):
        if job.host:
            store.tickets.drop(job)
        if host:
            store.tickets.enqueue(store.jobs.get(job.id))
    return store.jobs.get(job.id)
