"""Status of each model as a small JSON file: whether it is accelerated, why not, and what it did.

The model's process writes its file, the server's process reads all of them for GET /api/v1/turnloom/acceleration.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

VERSION: Final = 1  #: of the answer
FOLDER_VARIABLE: Final = "TURNLOOM_TUFT_STATUS_DIR"  #: set by the launcher for Ray's workers
INTERVAL: Final = 1.0  #: seconds between two writings of counters


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Difference between the accelerated model and stock TuFT on the same rows."""

    loss_difference: float  #: relative
    gradient_cosine: float
    logprob_difference: float  #: largest, nats
    seconds: float  #: compiling included


@dataclass(slots=True)
class ModelStatus:
    """One model of the server."""

    model_name: str
    state: str = "starting"  #: or "ready"
    accelerated: bool = False
    reason: str = ""  #: why not accelerated
    max_tokens_per_pass: int = 0  #: real tokens; 0: not accelerated
    calls: dict[str, int] = field(default_factory=lambda: {"accelerated": 0, "stock": 0})
    passes: int = 0
    tokens: int = 0  #: of accelerated calls
    graphs: int = 0  #: shapes of passes that were recorded
    replayed: int = 0  #: passes that ran as one of them
    out_of_memory_splits: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)  #: calls that stock TuFT served, by reason
    self_test: SelfTest | None = None

    def forget_counters(self) -> None:
        """Reset the counters: the self-test's work is no client's call."""
        self.calls = {"accelerated": 0, "stock": 0}
        self.passes = self.tokens = self.out_of_memory_splits = 0

    def as_json(self) -> dict[str, object]:
        """Return the JSON that the route answers with."""
        return asdict(self)


class StatusFile:
    """Writes one model's status, now and then."""

    def __init__(self, folder: Path | None, status: ModelStatus, now: Callable[[], float] = time.monotonic) -> None:
        self._path = None if folder is None else _path(folder, status.model_name)
        self._status = status
        self._now = now
        self._written = float("-inf")

    def write(self) -> None:
        """Write now. A full disk is ignored and tried again: reporting must not end training."""
        self._written = self._now()
        if self._path is None:
            return
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(self._status.as_json()), encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError:
            return

    def due(self) -> float:
        """Return the seconds until the counters are due; 0 or less: now."""
        return self._written + INTERVAL - self._now()


def folder(environment: dict[str, str] | os._Environ[str]) -> Path | None:
    """Return the folder of the status files; None: none was set."""
    named = environment.get(FOLDER_VARIABLE)
    return Path(named) if named else None


def answer(folder: Path | None, known: Iterable[ModelStatus]) -> dict[str, object]:
    """Build the route's answer: from the models' own files, else from what the launcher knows."""
    return {"version": VERSION, "models": [_read(folder, one) or one.as_json() for one in known]}


def _read(folder: Path | None, status: ModelStatus) -> dict[str, Any] | None:
    if folder is None:
        return None
    try:
        found: dict[str, Any] = json.loads(_path(folder, status.model_name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _path(folder: Path, model_name: str) -> Path:
    return folder / f"{hashlib.sha256(model_name.encode()).hexdigest()[:16]}.json"
