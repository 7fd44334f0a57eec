"""StepRecord to the text that the stream holds and back. Knows no Redis.

A JSON list in the order of the record's fields, a third smaller than an object; fields may only be added at the end.
"""

from __future__ import annotations

import json
from dataclasses import fields

from .codec import RecordNotReadable, build, hints, plain
from .records import StepRecord

_FIELDS = tuple(item.name for item in fields(StepRecord))


def encode_step(record: StepRecord) -> str:
    """Text that Lua may read (places: STEP_FIELD in scripts.py) and never writes."""
    return json.dumps([plain(getattr(record, name)) for name in _FIELDS], separators=(",", ":"))


def decode_step(text: str) -> StepRecord:
    """Read what `encode_step` wrote, also by an earlier version with fewer fields."""
    values: object = json.loads(text)
    if not isinstance(values, list) or len(values) > len(_FIELDS):
        raise RecordNotReadable("StepRecord: expected a list of at most " + str(len(_FIELDS)) + " values")
    table = dict(zip(_FIELDS, values, strict=False))
    kinds = hints(StepRecord)
    built = {name: build(kinds[name], value, f"StepRecord.{name}") for name, value in table.items()}
    return StepRecord(**built)  # type: ignore[arg-type]  # `build` has just checked every type
