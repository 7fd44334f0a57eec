"""Workers as RQ registers them, without a process: their records and names in Redis, and no job taken."""

from __future__ import annotations

from services.store.queueing.ticket_jobs import TicketWorker
from services.store.queueing.workers import FRESH, RECORD_LIFE
from services.store.store import Store


def sign_in(store: Store, queue: str, workers: int = 1, *, fresh_for: float = 3600.0) -> list[str]:
    """Register workers of a queue, unless they are; answer the keys of their records.

    They count for `fresh_for` seconds from now, as if their last sign came `FRESH - fresh_for` seconds ago.
    """
    keys = []
    for index in range(workers):
        worker = TicketWorker(queue, store.rq, look_every=1, name=f"{queue}-{index}")
        if not store.redis.exists(worker.key):
            worker.register_birth()
        age(store, worker.key, fresh_for)
        keys.append(worker.key)
    return keys


def age(store: Store, key: str, fresh_for: float = 0.0) -> None:
    """Turn the clock of a worker's record to where it counts for `fresh_for` seconds more; 0: no longer."""
    left = RECORD_LIFE - FRESH + fresh_for
    assert store.redis.pexpire(key, round(1000 * left)), f"{key} is gone"
