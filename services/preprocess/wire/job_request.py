"""Convert CreateJobRequest to a draft whose fields are in range."""

from __future__ import annotations

import hashlib
import math
from typing import Final

from services.preprocess.domain.job_draft import JobDraft, Sampled
from services.preprocess.domain.limits import MAX_REQUEST_ID_BYTES, Violations, check_bytes, check_labels
from services.preprocess.wire.hyperparameters import hyperparameters
from services.preprocess.wire.job import STATE
from services.preprocess.wire.sample import to_answer
from services.store.records import JobState, MixPart, StartFrom
from turnloom.plural import counted
from turnloom.v1 import training_pb2 as pb

MAX_PRIORITY: Final = 100
MAX_MIX: Final = 16  #: datasets of a mixture; also bounds the labels of its metrics
MAX_PROMPTS: Final = 16  #: that a job answers while it trains
MAX_PROMPT_BYTES: Final = 1 << 20  #: of all of them
MAX_REPLY_TOKENS: Final = 512
REPLY_TOKENS: Final = 128
MAX_NAME_BYTES: Final = 256  #: of an id or host name in a request


def draft(request: pb.CreateJobRequest) -> JobDraft:
    """Read a request.

    Raises:
        InvalidRequest: every field that is missing or out of range.
    """
    violations = Violations()
    if not request.model:
        violations.add("model", "is not set; choose a model that ListModels shows.")
    training = _training(request, violations)
    for name in ("model", "training_dataset", "test_dataset", "host"):
        check_bytes(getattr(request, name), name, MAX_NAME_BYTES, violations)
    chosen = hyperparameters(request.hyperparameters, "hyperparameters", violations)
    check_bytes(request.request_id, "request_id", MAX_REQUEST_ID_BYTES, violations)
    check_labels(request.metadata, "metadata", violations)
    if abs(request.priority) > MAX_PRIORITY:
        violations.add("priority", f"is {request.priority}; give -{MAX_PRIORITY} to {MAX_PRIORITY}.")
    sampled = _sampled(request, violations)
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
        training=training,
        test_dataset=request.test_dataset,
        hyperparameters=chosen,
        metadata=dict(request.metadata),
        host=request.host,
        start_from=origin,
        given=frozenset(descriptor.name for descriptor, _ in request.hyperparameters.ListFields()),
        priority=request.priority,
        sampled=sampled,
    )


def _sampled(request: pb.CreateJobRequest, violations: Violations) -> Sampled | None:
    """Read the prompts that are answered while the job trains; None: there are none."""
    count = len(request.sample_prompts)
    if not count:
        for name in ("sample_every", "sample_max_tokens"):
            if getattr(request, name):
                violations.add(name, "says nothing without sample_prompts.")
        return None
    if count > MAX_PROMPTS:
        violations.add("sample_prompts", f"has {count} prompts; send {MAX_PROMPTS} at most.")
        return None
    size = sum(prompt.ByteSize() for prompt in request.sample_prompts)
    if size > MAX_PROMPT_BYTES:
        violations.add("sample_prompts", f"has {size} bytes; send {MAX_PROMPT_BYTES} at most.")
        return None
    if request.sample_max_tokens > MAX_REPLY_TOKENS:
        violations.add("sample_max_tokens", f"is {request.sample_max_tokens}; give 1 to {MAX_REPLY_TOKENS}.")
    prompts = [
        said
        for place, prompt in enumerate(request.sample_prompts)
        if (said := to_answer(prompt, f"sample_prompts[{place}]", violations)) is not None
    ]
    return Sampled(prompts, request.sample_every, request.sample_max_tokens or REPLY_TOKENS)


def _training(request: pb.CreateJobRequest, violations: Violations) -> tuple[MixPart, ...]:
    """Return the datasets to train on: the one that is named, or those of the mixture."""
    if not request.mix:
        if not request.training_dataset:
            violations.add("training_dataset", "is not set; give the id of a dataset that is READY.")
        return (MixPart(request.training_dataset, 1.0),)
    if request.training_dataset:
        violations.add("training_dataset", "is set beside mix; name the dataset in one of them.")
    if not 2 <= len(request.mix) <= MAX_MIX:
        violations.add("mix", f"has {counted(len(request.mix), 'dataset')}; give 2 to {MAX_MIX}.")
        return ()
    for place, part in enumerate(request.mix):
        field = f"mix[{place}]"
        if not part.dataset:
            violations.add(f"{field}.dataset", "is not set; give the id of a dataset that is READY.")
        check_bytes(part.dataset, f"{field}.dataset", MAX_NAME_BYTES, violations)
        if part.dataset in {other.dataset for other in request.mix[:place]}:
            violations.add(f"{field}.dataset", f"is {part.dataset}, which stands there twice; add up its weights.")
        if not (math.isfinite(part.weight) and part.weight > 0):
            violations.add(f"{field}.weight", f"is {part.weight:g}; give a number above 0.")
    return tuple(MixPart(part.dataset, part.weight) for part in request.mix)


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
