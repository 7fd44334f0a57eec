"""Values that no JSON text gives: an object that holds itself, and objects inside objects without end."""

from __future__ import annotations


def circular() -> dict[str, object]:
    """An object that holds itself under `self`."""
    value: dict[str, object] = {"a": 1}
    value["self"] = value
    return value


def nested(levels: int, innermost: object = 1) -> dict[str, object]:
    """An object in an object, so many levels."""
    value = innermost
    for _ in range(levels):
        value = {"a": value}
    assert isinstance(value, dict)
    return value
