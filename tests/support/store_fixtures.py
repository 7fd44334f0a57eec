"""The store over an empty Redis, with one dataset, `ds`, that is ready, and a job that trains on it."""

from __future__ import annotations

from collections.abc import Iterator

from services.store.records import JobRecord, JobSpec
from services.store.store import Store, open_store


def store_of_a_ledger(redis_url: str) -> Iterator[Store]:
    """What a module makes its fixture `store` of, for other modules mean another store by that name."""
    store = open_store(redis_url)
    store.redis.hset("tl:api:dataset:ds", "state", "ready")
    yield store
    store.close()


def running(store: Store) -> JobRecord:
    """A job on host h that worker w has claimed."""
    job = store.jobs.queue(store.jobs.create(JobSpec("m", "m", "ds")).job.id, host="h", planned_steps=9)
    claim = store.jobs.claim(job.id, 1, "w")
    assert claim is not None
    return claim.job
