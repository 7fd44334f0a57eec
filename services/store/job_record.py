"""Read the hash that the scripts write as a JobRecord."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache, lru_cache
from typing import Final

from services.store.codec import decode
from services.store.records import (
    HELD,
    Control,
    CutReport,
    ErrorRecord,
    JobRecord,
    JobSpec,
    JobState,
    MixSums,
    Standing,
    Sums,
)
from services.store.steps import read_mix

#: How a field of a type is read from its text.
_READ: Final[Mapping[str, Callable[[str], object]]] = {
    "int": lambda text: int(float(text)),
    "float": float,
    "float | None": float,
    "str": str,
}
#: The fields that stand in the hash under their own names.
_PLAIN: Final = tuple((item.name, _READ[str(item.type)]) for item in fields(JobRecord) if item.type in _READ)


def read_job(job_id: str, stored: Mapping[str, str]) -> JobRecord:
    """Read one job; fields that no script has written yet, or that are empty, take their defaults."""
    error, cut, standing = stored.get("error"), stored.get("cut"), stored.get("standing")
    state = JobState(stored["state"])
    spec = _spec(stored["spec"])
    values = {name: read(text) for name, read in _PLAIN if (text := stored.get(name))}
    values |= {
        "id": job_id,
        "spec": spec,
        "state": state,
        "host_lost": state is JobState.QUEUED
        and stored.get("told_host", "") != ""
        and stored["told_host"] == (stored.get("host") or spec.host),
        "worker": stored.get("worker", "") if state in HELD else "",
        "control": _control(state, stored.get("preempt", "")),
        "error": decode(ErrorRecord, error) if error else None,
        "effective": _sums("effective", stored),
        "work": _sums("work", stored),
        "effective_mix": _mix("effective", stored),
        "work_mix": _mix("work", stored),
        "cut": decode(CutReport, cut) if cut else CutReport(),
        "rungs": tuple(int(word) for word in stored.get("rungs", "").split()),
        "standing": decode(Standing, standing) if standing else None,
    }
    return JobRecord(**values)  # type: ignore[arg-type]  # each read as its field's type says


@lru_cache(maxsize=4096)
def _spec(text: str) -> JobSpec:
    """Read the job's request, which never changes."""
    return decode(JobSpec, text)


@cache
def _names(prefix: str) -> tuple[tuple[str, str], ...]:
    """Return the fields of Sums, and their places in the hash."""
    return tuple((item.name, f"{prefix}_{item.name}") for item in fields(Sums))


def _control(state: JobState, preempt: str) -> Control:
    if state is JobState.CANCELLING:
        return Control.CANCEL
    if state is JobState.PAUSING:
        return Control.PAUSE
    return Control.PREEMPT if state is JobState.RUNNING and preempt else Control.NONE


def _mix(prefix: str, stored: Mapping[str, str]) -> tuple[MixSums, ...]:
    return read_mix([float(word) for word in stored.get(f"{prefix}_mix", "").split()])


_REAL = frozenset({"nll", "weight", "test_nll", "test_weight"})


def _sums(prefix: str, stored: Mapping[str, str]) -> Sums:
    values = {name: float(stored.get(place) or 0) for name, place in _names(prefix)}
    return Sums(**{name: value if name in _REAL else int(value) for name, value in values.items()})  # type: ignore[arg-type]  # ints by name
