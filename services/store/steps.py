"""Encode a StepRecord as the text that the stream holds, and decode it.

A JSON list in the order of the record's fields, half the size of an object. Fields may only be added at the end. A
job has tens of thousands of these, so they are read by hand instead of by `codec`: 17 instead of 56 us each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, fields

from services.store.codec import RecordNotReadable
from services.store.records import MixSums, StepRecord

_FIELDS = tuple(item.name for item in fields(StepRecord))
_PHASES = _FIELDS.index("phase_seconds")
_MIX = _FIELDS.index("mix")
_REAL = frozenset({"nll_sum", "weight_sum", "objective", "learning_rate", "time"})
_OPTIONAL_REAL = frozenset({"gpu_utilization", "test_nll_sum", "test_weight_sum"})
_OPTIONAL_WHOLE = frozenset({"gpu_memory_bytes", "test_target_bytes"})
_OPTIONAL_TRUTH = frozenset({"accelerated"})


def encode_step(record: StepRecord) -> str:
    """Encode a step as text that Lua may read (places: STEP_FIELD in scripts.py) and never writes."""
    values = [getattr(record, name) for name in _FIELDS]
    values[_PHASES] = dict(record.phase_seconds)
    values[_MIX] = [number for sums in record.mix for number in astuple(sums)]
    return json.dumps(values, separators=(",", ":"))


def decode_step(text: str) -> StepRecord:
    """Read what `encode_step` wrote, also by an earlier version with fewer fields. Raises RecordNotReadable."""
    values: object = json.loads(text)
    if not isinstance(values, list) or len(values) > len(_FIELDS):
        raise RecordNotReadable(f"StepRecord: expected a list of at most {len(_FIELDS)} values")
    return StepRecord(**{name: _value(name, value) for name, value in zip(_FIELDS, values, strict=False)})  # type: ignore[arg-type]  # `_value` has just checked every type


def _value(name: str, value: object) -> object:
    if name == "phase_seconds":
        if isinstance(value, dict):
            return {str(phase): _real(f"{name}.{phase}", seconds) for phase, seconds in value.items()}
    elif name == "mix":
        if isinstance(value, list):
            return read_mix(value)
    elif value is None:
        if name in _OPTIONAL_REAL or name in _OPTIONAL_WHOLE or name in _OPTIONAL_TRUTH:
            return None
    elif name in _OPTIONAL_TRUTH:
        if isinstance(value, bool):
            return value
    elif name in _REAL or name in _OPTIONAL_REAL:
        return _real(name, value)
    elif type(value) is int:
        return value
    raise RecordNotReadable(f"StepRecord.{name}: found {type(value).__name__}")


def read_mix(numbers: Sequence[object]) -> tuple[MixSums, ...]:
    """Read the four numbers of each dataset of a mixture, one after the other. Raises RecordNotReadable."""
    reals = [_real("mix", number) for number in numbers]
    if len(reals) % 4:
        raise RecordNotReadable(f"StepRecord.mix: found {len(reals)} numbers, not four a dataset")
    return tuple(
        MixSums(int(reals[at]), int(reals[at + 1]), reals[at + 2], reals[at + 3]) for at in range(0, len(reals), 4)
    )


def _real(name: str, value: object) -> float:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return float(value)
    raise RecordNotReadable(f"StepRecord.{name}: expected float, found {type(value).__name__}")
