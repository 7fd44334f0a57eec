"""The store over an empty Redis, with one dataset, `ds`, that is ready."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.store.store import Store, open_store

pytest_plugins = ["tests.redis_fixtures"]


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = open_store(redis_url)
    store.redis.hset("tl:api:dataset:ds", "state", "ready")
    yield store
    store.close()
