"""Read the hash that the scripts write as a JobRecord."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache, lru_cache

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


def read_job(job_id: str, stored: Mapping[str, str]) -> JobRecord:
    """Read one job; fields that no script has written yet take their defaults."""

    def number(name: str) -> float:
        return float(stored.get(name) or 0)

    def measured(name: str) -> float | None:
        return float(stored[name]) if stored.get(name) else None

    error, cut = stored.get("error"), stored.get("cut")
    state = JobState(stored["state"])
    spec = _spec(stored["spec"])
    return JobRecord(
        id=job_id,
        spec=spec,
        state=state,
        attempt=int(number("attempt")),
        host=stored.get("host", ""),
        host_lost=state is JobState.QUEUED
        and stored.get("told_host", "") != ""
        and stored["told_host"] == (stored.get("host") or spec.host),
        move_to=stored.get("move_to", ""),
        worker=stored.get("worker", "") if state in HELD else "",
        control=_control(state, stored.get("preempt", "")),
        error=decode(ErrorRecord, error) if error else None,
        planned_steps=int(number("planned_steps")),
        step=int(number("step")),
        epoch=int(number("epoch")),
        start_step=int(number("start_step")),
        failed_attempts=int(number("failed_attempts")),
        learning_rate=number("learning_rate"),
        last_train_nll=measured("last_train_nll"),
        test_nll=measured("test_nll"),
        test_step=int(number("test_step")),
        sampled_step=int(number("sampled_step")),
        test_bits_per_byte=measured("test_bits_per_byte"),
        best_test_nll=measured("best_test_nll"),
        best_test_step=int(number("best_test_step")),
        tokens_per_second=number("tokens_per_second"),
        effective=_sums("effective", stored),
        work=_sums("work", stored),
        effective_mix=_mix("effective", stored),
        work_mix=_mix("work", stored),
        cut=decode(CutReport, cut) if cut else CutReport(),
        rungs=tuple(int(word) for word in stored.get("rungs", "").split()),
        rung=int(number("rung")),
        passed_rung=int(number("passed_rung")),
        standing=decode(Standing, stored["standing"]) if stored.get("standing") else None,
        best_checkpoint=stored.get("best_checkpoint", ""),
        last_checkpoint=stored.get("last_checkpoint", ""),
        stored_checkpoint=stored.get("stored_checkpoint", ""),
        stored_step=int(number("stored_step")),
        stored_lag=measured("stored_lag"),
        adapter_uri=stored.get("adapter_uri", ""),
        adapter_sha256=stored.get("adapter_sha256", ""),
        archive_uri=stored.get("archive_uri", ""),
        held_seconds=number("held_seconds"),
        held_since=number("held_since"),
        held_cost=number("held_cost"),
        hour_price=measured("hour_price"),
        currency=stored.get("currency", ""),
        create_time=number("create_time"),
        queue_time=number("queue_time"),
        start_time=number("start_time"),
        finish_time=number("finish_time"),
        last_step_time=number("last_step_time"),
        last_checkpoint_time=number("last_checkpoint_time"),
    )


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
