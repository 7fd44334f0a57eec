"""Convert Turnloom's jobs, events, steps and checkpoints to OpenAI's objects."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from services.rest import hyperparameters, names
from services.rest.bodies import (
    CheckpointMetrics,
    FineTuningJob,
    Integration,
    JobCheckpoint,
    JobError,
    JobEvent,
    JobState,
    Status,
)
from turnloom.results.runs import test_nll, train_nll
from turnloom.v1 import training_pb2 as tr

#: OpenAI knows six states. A paused job waits as a queued one does; turnloom.state has the word.
STATUS: Final[Mapping[tr.JobState.ValueType, Status]] = {
    tr.JOB_STATE_VALIDATING: "validating_files",
    tr.JOB_STATE_QUEUED: "queued",
    tr.JOB_STATE_RUNNING: "running",
    tr.JOB_STATE_PAUSING: "running",
    tr.JOB_STATE_PAUSED: "queued",
    tr.JOB_STATE_CANCELLING: "cancelled",  # nothing else can become of it
    tr.JOB_STATE_SUCCEEDED: "succeeded",
    tr.JOB_STATE_FAILED: "failed",
    tr.JOB_STATE_CANCELLED: "cancelled",
}
TERMINAL: Final = (tr.JOB_STATE_SUCCEEDED, tr.JOB_STATE_FAILED, tr.JOB_STATE_CANCELLED)
STEP: Final = "ftevent-step-"  #: and the step: the id of its event


def job_object(job: tr.Job) -> FineTuningJob:
    """Convert a job."""
    ended = job.state in TERMINAL
    labels = dict(job.metadata)
    return FineTuningJob(
        id=job.id,
        created_at=seconds(job.create_time),
        finished_at=seconds(job.finish_time) if ended else None,
        model=job.model,
        fine_tuned_model=names.model_name(job) if job.state == tr.JOB_STATE_SUCCEEDED else None,
        organization_id=job.owner or names.NO_OWNER,
        status=STATUS[job.state],
        training_file=labels.get(names.TRAINING_FILE, job.training_dataset),
        validation_file=labels.get(names.VALIDATION_FILE, job.test_dataset) or None,
        hyperparameters=hyperparameters.told(job),
        method=hyperparameters.method_of(job),
        result_files=[names.results_name(job)] if ended and job.progress.step else [],
        trained_tokens=job.progress.tokens if ended else None,
        estimated_finish=_estimated(job),
        error=_error(job),
        seed=job.hyperparameters.seed,
        integrations=_integrations(labels),
        metadata={name: text for name, text in labels.items() if not name.startswith(names.LABEL)},
        turnloom=_state(job),
    )


def _estimated(job: tr.Job) -> int | None:
    known = job.state == tr.JOB_STATE_RUNNING and job.progress.HasField("estimated_finish")
    return seconds(job.progress.estimated_finish) if known else None


def _error(job: tr.Job) -> JobError | None:
    if job.state != tr.JOB_STATE_FAILED:
        return None
    told = job.error
    return JobError(code=told.code.lower(), message=f"{told.message} {told.hint}".strip(), param=told.param or None)


def _integrations(labels: Mapping[str, str]) -> list[Integration]:
    if names.WANDB not in labels:
        return []
    return [Integration.model_validate({"type": "wandb", "wandb": json.loads(labels[names.WANDB])})]


def _state(job: tr.Job) -> JobState:
    progress = job.progress
    return JobState(
        state=tr.JobState.Name(job.state).removeprefix("JOB_STATE_"),
        step=progress.step,
        planned_steps=progress.planned_steps,
        attempt=job.attempt,
        host=job.host,
        training_dataset=job.training_dataset,
        test_dataset=job.test_dataset,
        learning_rate=job.hyperparameters.learning_rate,
        lora_rank=job.hyperparameters.lora_rank,
        loss_tokens=progress.trained_tokens,
        train_nll=_finite(progress.last_train_nll) if progress.HasField("last_train_nll") else None,
        training_seconds=progress.training_seconds,
        cost=progress.cost if progress.HasField("cost") else None,
        currency=progress.currency or None,
        webhook=job.metadata.get(names.WEBHOOK),
        test_nll=_finite(progress.test_nll) if progress.HasField("test_nll") else None,
    )


def message_event(event: tr.Event) -> JobEvent:
    """Convert an event."""
    return JobEvent(
        id=f"ftevent-{event.id}",
        created_at=seconds(event.time),
        level="warn" if event.level == "warning" else "error" if event.level == "error" else "info",
        message=event.message,
        type="message",
        data={"type": event.type, "attempt": event.attempt, **event.fields},
    )


def step_event(step: tr.Step, planned: int) -> JobEvent:
    """Convert a step's measurements; losses are nats per unit of weight."""
    train, test = train_nll(step), test_nll(step)
    losses = f"train loss {train:.4f}" if train is not None else "evaluated"
    losses += f", test loss {test:.4f}" if test is not None else ""
    data: dict[str, object] = {"step": step.step, "total_steps": planned, "train_loss": _finite(train)}
    if test is not None:
        data["full_valid_loss"] = _finite(test)
    data |= {"learning_rate": step.learning_rate, "tokens": step.tokens, "epoch": step.epoch}
    return JobEvent(
        id=f"{STEP}{step.step}",
        created_at=seconds(step.time),
        level="info",
        message=f"Step {step.step} of {planned}: {losses}",
        type="metrics",
        data=data,
    )


def checkpoint_object(job: tr.Job, saved: tr.Checkpoint, step: tr.Step | None) -> JobCheckpoint:
    """Convert a checkpoint, with the losses of its step."""
    return JobCheckpoint(
        id=saved.id,
        created_at=seconds(saved.time),
        fine_tuned_model_checkpoint=names.checkpoint_name(job, saved.step),
        fine_tuning_job_id=job.id,
        metrics=CheckpointMetrics(
            step=saved.step,
            train_loss=_finite(train_nll(step)) if step is not None else None,
            full_valid_loss=_finite(saved.test_nll) if saved.HasField("test_nll") else None,
        ),
        step_number=saved.step,
    )


def seconds(time: Timestamp) -> int:
    """Return whole seconds since 1970."""
    return time.seconds


def _finite(number: float | None) -> float | None:
    """Return the number, or None for one that is not finite: JSON has no NaN."""
    return number if number is not None and math.isfinite(number) else None
