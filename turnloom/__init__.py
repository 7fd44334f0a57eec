"""Turnloom's client library and mask engine: chat conversations into token-exact training batches.

`turnloom.masks` is the engine alone: it needs neither gRPC nor a server. The names below are loaded when they are
first used, so that importing the engine imports no client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from turnloom.batches import Batch, Row
    from turnloom.calls import Tls
    from turnloom.client import Preprocessed, TurnloomClient
    from turnloom.conversations import read
    from turnloom.errors import TurnloomError

_HOME: Final = {
    "Batch": "turnloom.batches",
    "Preprocessed": "turnloom.client",
    "Row": "turnloom.batches",
    "Tls": "turnloom.calls",
    "TurnloomClient": "turnloom.client",
    "TurnloomError": "turnloom.errors",
    "read": "turnloom.conversations",
}

__all__ = ["Batch", "Preprocessed", "Row", "Tls", "TurnloomClient", "TurnloomError", "read"]


def __getattr__(name: str) -> object:
    """Load a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'turnloom' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
