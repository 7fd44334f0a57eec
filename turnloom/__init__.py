"""Turnloom's client library and mask engine: chat conversations into token-exact training batches.

`turnloom.masks` is the engine alone: it needs neither gRPC nor a server. The names below are loaded when they are
first used, so that importing the engine imports no client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from turnloom.client import Preprocessed, TurnloomClient
    from turnloom.errors import TurnloomError
    from turnloom.reading.local_sources import read
    from turnloom.transport.calls import Tls
    from turnloom.wire.batches import Batch, Row

__all__ = ["Batch", "Preprocessed", "Row", "Tls", "TurnloomClient", "TurnloomError", "read"]

#: Name -> the module that has it, imported when the name is first used: parts of the package need no grpc and no numpy.
_MODULES: Final = {
    "Batch": "turnloom.wire.batches",
    "Preprocessed": "turnloom.client",
    "Row": "turnloom.wire.batches",
    "Tls": "turnloom.transport.calls",
    "TurnloomClient": "turnloom.client",
    "TurnloomError": "turnloom.errors",
    "read": "turnloom.reading.local_sources",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
