"""The cache that forgets."""

from turnloom.masks.domain.bounded_cache import BoundedCache


def test_the_oldest_entry_makes_room_and_a_known_one_needs_none() -> None:
    cache: BoundedCache[str, int] = BoundedCache(2)
    cache["a"], cache["b"], cache["b"] = 1, 2, 3
    assert (cache.get("a"), cache.get("b"), len(cache)) == (1, 3, 2)
    cache["c"] = 4
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (None, 3, 4, 2)
