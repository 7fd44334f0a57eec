"""A dictionary that forgets its oldest entries. Knows nothing of what it keeps."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """At most `limit` entries. Safe to share between threads: a race costs a miss."""

    def __init__(self, limit: int) -> None:
        """Begin empty."""
        self._limit = limit
        self._entries: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """The value, or None."""
        return self._entries.get(key)

    def __setitem__(self, key: K, value: V) -> None:
        while len(self._entries) >= self._limit:
            oldest = next(iter(self._entries), None)
            if oldest is None:
                break
            self._entries.pop(oldest, None)
        self._entries[key] = value

    def __len__(self) -> int:
        return len(self._entries)
