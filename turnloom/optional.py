"""Check for optional libraries without importing them."""

from __future__ import annotations

import importlib.util


def missing(module: str) -> bool:
    """Return whether a library is not installed."""
    return importlib.util.find_spec(module) is None
