"""Convert CreateSweepRequest to one job request per cell, and sweeps to what clients see."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import Final

from services.preprocess.domain.job_draft import JobDraft
from services.preprocess.domain.limits import (
    MAX_DISPLAY_NAME_BYTES,
    MAX_REQUEST_ID_BYTES,
    Violations,
    check_bytes,
    check_name,
)
from services.preprocess.domain.refusals import InvalidRequest, Violation
from services.preprocess.wire import job as job_wire
from services.preprocess.wire.dataset import timestamp
from services.preprocess.wire.hyperparameters import RANGES
from services.preprocess.wire.job_request import draft
from services.preprocess.wire.rungs import check_halving
from services.store.records import JobRecord, SweepAxis, SweepRecord
from turnloom.v1 import training_pb2 as pb

MAX_CELLS: Final = 100
REAL: Final = frozenset(
    field.name for field in pb.Hyperparameters.DESCRIPTOR.fields if field.cpp_type == field.CPPTYPE_DOUBLE
)  #: hyperparameters that are no whole numbers


def cells(request: pb.CreateSweepRequest) -> list[JobDraft]:
    """Return one draft per cell, in row-major order of the axes: the last axis changes fastest.

    Raises:
        InvalidRequest: every axis, value and field that is wrong.
    """
    violations = Violations()
    check_bytes(request.request_id, "request_id", MAX_REQUEST_ID_BYTES, violations)
    check_name(request.display_name, "display_name", MAX_DISPLAY_NAME_BYTES, violations)
    if request.base.request_id:
        violations.add("base.request_id", "is set; a sweep has a request_id of its own, beside base.")
    if request.base.validate_only:
        violations.add("base.validate_only", "is set; check a single cell with CreateJob instead.")
    check_halving(request, violations)
    _check_axes(request, violations)
    violations.refuse()
    made = []
    for values in itertools.product(*(axis.values for axis in request.axes)):
        cell = pb.CreateJobRequest()
        cell.CopyFrom(request.base)
        for axis, value in zip(request.axes, values, strict=True):
            name = axis.hyperparameter
            setattr(cell.hyperparameters, name, value if name in REAL else int(value))
        try:
            made.append(draft(cell))
        except InvalidRequest as error:
            raise InvalidRequest(
                [Violation(f"base.{item.field}", item.description) for item in error.violations]
            ) from error
    return made


def _check_axes(request: pb.CreateSweepRequest, violations: Violations) -> None:
    if not request.axes:
        violations.add("axes", "is empty; give one axis at least, such as lora_rank with 8 and 32.")
    seen: set[str] = set()
    for position, axis in enumerate(request.axes):
        field, name = f"axes[{position}]", axis.hyperparameter
        if name not in RANGES:
            close = difflib.get_close_matches(name, RANGES, n=1)
            instead = f"did you mean {close[0]}?" if close else f"there are {', '.join(RANGES)}."
            violations.add(
                f"{field}.hyperparameter", f"is {name[:64]!r}, which is not a numeric hyperparameter; {instead}"
            )
            continue
        if name in seen:
            violations.add(f"{field}.hyperparameter", f"is {name}, which has an axis already; put all values in one.")
        seen.add(name)
        if request.base.hyperparameters.HasField(name):  # type: ignore[arg-type]  # names are literals to the stubs
            violations.add(f"{field}.hyperparameter", f"is {name}, which base sets too; leave it out there.")
        _check_values(axis, field, violations)
    count = math.prod(len(axis.values) for axis in request.axes)
    if count > MAX_CELLS:
        violations.add("axes", f"make {count} cells; give fewer values, for {MAX_CELLS} cells at most.")


def _check_values(axis: pb.SweepAxis, field: str, violations: Violations) -> None:
    if not axis.values:
        violations.add(f"{field}.values", f"is empty; give {axis.hyperparameter} one value at least.")
    allowed = RANGES[axis.hyperparameter]
    for position, value in enumerate(axis.values):
        place = f"{field}.values[{position}]"
        if not allowed.holds(value):
            violations.add(place, f"is {value:g}; give {axis.hyperparameter} {allowed}.")
        elif axis.hyperparameter not in REAL and value != int(value):
            violations.add(place, f"is {value:g}; give {axis.hyperparameter} whole numbers.")
        elif value in axis.values[:position]:
            violations.add(place, f"is {value:g} twice; give each value once.")


def content_hash(request: pb.CreateSweepRequest) -> str:
    """Return a hex sha256 that is equal for equal requests, apart from the request_id itself."""
    same = pb.CreateSweepRequest()
    same.CopyFrom(request)
    same.ClearField("request_id")
    return hashlib.sha256(same.SerializeToString(deterministic=True)).hexdigest()


def axes(request: pb.CreateSweepRequest) -> tuple[SweepAxis, ...]:
    """Return the axes as they are kept."""
    return tuple(SweepAxis(axis.hyperparameter, tuple(axis.values)) for axis in request.axes)


def sweep(record: SweepRecord, jobs: Sequence[JobRecord]) -> pb.Sweep:
    """Return the sweep with its jobs as they are now."""
    return pb.Sweep(
        id=record.id,
        display_name=record.display_name,
        axes=[pb.SweepAxis(hyperparameter=axis.hyperparameter, values=axis.values) for axis in record.axes],
        jobs=[job_wire.job(job) for job in jobs],
        create_time=timestamp(record.create_time),
        owner=record.owner,
        rungs=[pb.Rung(step=rung.step, kept=rung.kept) for rung in record.rungs],
    )
