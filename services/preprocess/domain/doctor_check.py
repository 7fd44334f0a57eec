"""One check, as `turnloom doctor` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    outcome: str  #: "ok", "warning", "failed", "skipped"
    message: str  #: what was found, one sentence
    hint: str = ""  #: what to do; empty when ok
    host: str = ""  #: empty: the API


def from_answer(answer: object, host: str = "") -> list[Check]:
    """Return the checks in a worker's JSON answer; entries that are not checks are left out."""
    items = answer.get("checks", []) if isinstance(answer, Mapping) else []
    return [_read(item, host) for item in items if isinstance(item, Mapping)]


def _read(item: Mapping[str, object], host: str) -> Check:
    text = {name: str(item.get(name, "")) for name in ("name", "outcome", "message", "hint")}
    return Check(host=str(item.get("host") or host), **text)
