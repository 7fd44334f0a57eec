"""The store over an empty Redis, with one dataset, `ds`, that is ready."""

from __future__ import annotations

from collections.abc import Iterator

from services.store.store import Store, open_store


def store_of_a_ledger(redis_url: str) -> Iterator[Store]:
    """What a module makes its fixture `store` of, for other modules mean another store by that name."""
    store = open_store(redis_url)
    store.redis.hset("tl:api:dataset:ds", "state", "ready")
    yield store
    store.close()
