"""Create a queued job from a request and its files."""

from __future__ import annotations

import json
import threading

from services.rest import hyperparameters, names
from services.rest.bodies import CreateJob
from services.rest.gateway import NewJob, Turnloom
from services.rest.names import no_model
from services.rest.notices import Notices, check_webhook, notice_of
from services.rest.problems import ClientLeft, invalid
from services.rest.service import Service
from services.rest.settings import RestSettings
from services.rest.training_files import TrainingFiles
from turnloom.v1 import training_pb2 as tr
from turnloom.wire.options import hyperparameters as checked_hyperparameters
from turnloom.wire.options import preprocess_options

MOST_LABELS = 16  #: of the caller's own, as OpenAI's


def create(parts: Service, turnloom: Turnloom, body: CreateJob, idempotency_key: str, left: threading.Event) -> tr.Job:
    """Queue the requested job, and note who is notified of its end.

    Raises:
        Problem, TurnloomError: what is wrong with the request; no job was made.
        ClientLeft: the client has left; no job was made.
    """
    asked = hyperparameters.asked_of(body)
    extra = dict(body.turnloom.hyperparameters)
    options = dict(body.turnloom.options)
    checked_hyperparameters(extra)  # names and kinds, before a file is sent
    preprocess_options(body.model, options)
    labels = _labels(body) | _telling(body, parts.settings)
    if not any(model.name == body.model for model in turnloom.models()):
        raise no_model(body.model)
    files = TrainingFiles(parts.files, turnloom, turnloom.caller(), left)
    training = files.dataset("training_file", body.training_file, body.model, options)
    test = (
        files.dataset("validation_file", body.validation_file, body.model, options).id if body.validation_file else ""
    )
    chosen = hyperparameters.chosen(body.model, asked, extra, body.seed, training.conversations)
    if left.is_set():
        raise ClientLeft
    job = turnloom.create_job(
        NewJob(
            model=body.model,
            training_dataset=training.id,
            test_dataset=test,
            metadata=labels,
            host=body.turnloom.host,
            request_id=idempotency_key,
            hyperparameters=chosen,
        )
    )
    note(parts, job)
    return job


def note(parts: Service, job: tr.Job) -> None:
    """Have the notifier report the job's end, where its labels ask for it."""
    if names.NOTIFY in job.metadata:
        Notices(parts.files).put(notice_of(job))


def _labels(body: CreateJob) -> dict[str, str]:
    """Return the caller's labels, and those from which any copy of the service rebuilds OpenAI's fields."""
    labels = dict(body.metadata or {})
    if len(labels) > MOST_LABELS:
        raise invalid("metadata", f"has {len(labels)} pairs; send {MOST_LABELS} at most.")
    if own := next((name for name in labels if name.startswith(names.LABEL)), None):
        raise invalid("metadata", f"{own!r} begins with {names.LABEL}, which is the service's own; rename it.")
    labels[names.TRAINING_FILE] = body.training_file
    if body.validation_file:
        labels[names.VALIDATION_FILE] = body.validation_file
    if body.suffix:
        labels[names.SUFFIX] = names.check_suffix(body.suffix)
    return labels


def _telling(body: CreateJob, settings: RestSettings) -> dict[str, str]:
    """Return the labels that say who is notified of the job's end."""
    labels: dict[str, str] = {}
    if body.turnloom.webhook:
        check_webhook(body.turnloom.webhook, settings.webhook_hosts, bool(settings.webhook_secret))
        labels[names.WEBHOOK] = body.turnloom.webhook
    if body.integrations:
        if not settings.wandb:
            sentence = (
                "nothing is mirrored here; run `turnloom export JOB --to wandb`, or have TURNLOOM_REST_WANDB set."
            )
            raise invalid("integrations", sentence)
        if len(body.integrations) > 1:
            raise invalid("integrations", f"has {len(body.integrations)} entries; send one.")
        wandb = body.integrations[0].wandb.model_dump(exclude_none=True)
        labels[names.WANDB] = json.dumps(wandb, separators=(",", ":"))
        if len(labels[names.WANDB].encode()) > 256:
            raise invalid("integrations", "project, entity, name and tags are longer than 256 bytes; shorten them.")
    return {**labels, names.NOTIFY: "1"} if labels else {}
