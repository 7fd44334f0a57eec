"""Convert CreateJobRequest to a draft whose fields are in range."""

from __future__ import annotations

import hashlib
from typing import Final

from services.preprocess.domain.job_draft import JobDraft
from services.preprocess.domain.limits import MAX_REQUEST_ID_BYTES, Violations, check_bytes, check_labels
from services.preprocess.wire.hyperparameters import hyperparameters
from services.preprocess.wire.job import STATE
from services.store.records import JobState, StartFrom
from turnloom.v1 import training_pb2 as pb

MAX_PRIORITY: Final = 100
MAX_NAME_BYTES: Final = 256  #: of an id or host name in a request


def draft(request: pb.CreateJobRequest) -> JobDraft:
    """Read a request.

    Raises:
        InvalidRequest: every field that is missing or out of range.
    """
    violations = Violations()
    if not request.model:
        violations.add("model", "is not set; choose a model that ListModels shows.")
    if not request.training_dataset:
        violations.add("training_dataset", "is not set; give the id of a dataset that is READY.")
    for name in ("model", "training_dataset", "test_dataset", "host"):
        check_bytes(getattr(request, name), name, MAX_NAME_BYTES, violations)
    chosen = hyperparameters(request.hyperparameters, "hyperparameters", violations)
    check_bytes(request.request_id, "request_id", MAX_REQUEST_ID_BYTES, violations)
    check_labels(request.metadata, "metadata", violations)
    if abs(request.priority) > MAX_PRIORITY:
        violations.add("priority", f"is {request.priority}; give -{MAX_PRIORITY} to {MAX_PRIORITY}.")
    origin = None
    if request.HasField("start_from"):
        if not request.start_from.job:
            violations.add("start_from.job", "is not set; give the id of the job that saved the checkpoint.")
        origin = StartFrom(
            job=request.start_from.job,
            checkpoint=request.start_from.checkpoint,
            weights_only=request.start_from.weights_only,
        )
    violations.refuse()
    return JobDraft(
        model=request.model,
        training_dataset=request.training_dataset,
        test_dataset=request.test_dataset,
        hyperparameters=chosen,
        metadata=dict(request.metadata),
        host=request.host,
        start_from=origin,
        given=frozenset(descriptor.name for descriptor, _ in request.hyperparameters.ListFields()),
        priority=request.priority,
    )


def content_hash(request: pb.CreateJobRequest) -> str:
    """Return a hex sha256 that is equal for equal requests, apart from the request_id itself."""
    same = pb.CreateJobRequest()
    same.CopyFrom(request)
    same.ClearField("request_id")
    return hashlib.sha256(same.SerializeToString(deterministic=True)).hexdigest()


def states(request: pb.ListJobsRequest) -> frozenset[JobState]:
    """Return the states that a list is narrowed to; empty: all.

    Raises:
        InvalidRequest: UNSPECIFIED or an unknown number among them.
    """
    violations = Violations()
    found = [STATE.required(number, f"states[{i}]", violations) for i, number in enumerate(request.states)]
    violations.refuse()
    return frozenset(state for state in found if state is not None)
