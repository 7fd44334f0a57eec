"""Redis and the object store, opened at the first call that needs them.

The API starts and preprocesses without Redis. Calls that need Redis are refused with a sentence until it answers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from services.store.store import Store


class Backing:
    """Shares one open store among all threads."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open = open_store
        self._store: Store | None = None
        self._lock = threading.Lock()

    def store(self) -> Store:
        """Return the open store, retrying the connection at each call until it succeeds once.

        Afterwards redis-py reconnects by itself.

        Raises:
            RedisUnavailable, SchemaMismatch: from services.store.
        """
        with self._lock:
            if self._store is not None:
                return self._store
        opened = self._open()  # outside the lock: a Redis that drops packets must not make callers queue up
        with self._lock:
            if self._store is None:
                self._store = opened
            else:
                opened.close()
            return self._store

    def close(self) -> None:
        """Close the store and its connections."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None
