"""One thing that was looked at, as `turnloom doctor` shows it. Knows nothing of what can be checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    outcome: str  #: "ok", "warning", "failed", "skipped"
    message: str  #: what was found, one sentence
    hint: str = ""  #: what to do; empty when ok
    host: str = ""  #: empty: the API


def from_answer(answer: object, host: str = "") -> list[Check]:
    """Checks of the JSON that a worker answered with; what is no check in it is left out."""
    items = answer.get("checks", []) if isinstance(answer, Mapping) else []
    return [_read(item, host) for item in items if isinstance(item, Mapping)]


def _read(item: Mapping[str, object], host: str) -> Check:
    text = {name: str(item.get(name, "")) for name in ("name", "outcome", "message", "hint")}
    return Check(host=str(item.get("host") or host), **text)
