"""Redis and the object store, opened at the first call that needs them. Knows no RPC.

The API starts, and preprocesses, without Redis; what needs it is refused with a sentence until it answers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from services.store.store import Store


class Backing:
    """Hands out one open store to all threads."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open = open_store
        self._store: Store | None = None
        self._lock = threading.Lock()

    def store(self) -> Store:
        """The open store; connecting is tried anew until it succeeds once, afterwards redis-py reconnects by itself.

        Raises:
            RedisUnavailable, SchemaMismatch: from services.store.
        """
        with self._lock:
            if self._store is not None:
                return self._store
        opened = self._open()  # outside of the lock: a Redis that swallows packets must not make callers queue up
        with self._lock:
            if self._store is None:
                self._store = opened
            else:
                opened.close()
            return self._store

    def close(self) -> None:
        """Give connections back."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None
