"""/v1/fine_tuning/jobs: create, look at and steer jobs; their events and checkpoints."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request

from services.rest.bodies import CreateJob, FineTuningJob, JobCheckpoint, JobEvent, Page
from services.rest.event_pages import event_page
from services.rest.job_creation import create, note
from services.rest.names import LABEL
from services.rest.paging import page
from services.rest.problems import Problem, invalid
from services.rest.service import Caller, Parts, until_left
from services.rest.views import checkpoint_object, job_object
from turnloom.v1 import training_pb2 as tr

ROUTER = APIRouter(prefix="/fine_tuning/jobs", tags=["fine-tuning"])
Limit = Annotated[int, Query(ge=1, le=1000)]


@ROUTER.post("")
async def create_job(
    body: CreateJob,
    request: Request,
    parts: Parts,
    turnloom: Caller,
    idempotency_key: Annotated[str, Header(max_length=128)] = "",
) -> FineTuningJob:
    """Make a dataset of the training file and queue a job; a client that leaves meanwhile leaves nothing behind."""

    def work(left: threading.Event) -> FineTuningJob:
        return job_object(create(parts, turnloom, body, idempotency_key, left))

    return await until_left(request, parts.creating, work)


@ROUTER.get("")
def list_jobs(request: Request, turnloom: Caller, after: str | None = None, limit: Limit = 20) -> Page[FineTuningJob]:
    """List jobs, newest first; metadata[KEY]=VALUE lists those with that label."""
    return page(map(job_object, turnloom.jobs(_labels(request))), after, limit)


@ROUTER.get("/{job}")
def get_job(job: str, turnloom: Caller) -> FineTuningJob:
    """Return one job as it is now."""
    return job_object(turnloom.job(job))


@ROUTER.post("/{job}/cancel")
def cancel_job(job: str, turnloom: Caller) -> FineTuningJob:
    """Stop a job; a running one saves a checkpoint first."""
    found = turnloom.cancel(job)
    if found.state in (tr.JOB_STATE_SUCCEEDED, tr.JOB_STATE_FAILED):
        state = tr.JobState.Name(found.state).removeprefix("JOB_STATE_")
        raise Problem(400, f"Job {job!r} is {state} and can't be cancelled.", code="illegal_edge")
    return job_object(found)


@ROUTER.post("/{job}/pause")
def pause_job(job: str, turnloom: Caller) -> FineTuningJob:
    """Have a running job save and wait."""
    return job_object(turnloom.pause(job))


@ROUTER.post("/{job}/resume")
def resume_job(job: str, parts: Parts, turnloom: Caller) -> FineTuningJob:
    """Queue a paused, failed or cancelled job again; its next end is told as its first one was."""
    resumed = turnloom.resume(job)
    note(parts, resumed)
    return job_object(resumed)


@ROUTER.get("/{job}/events")
def list_events(job: str, turnloom: Caller, after: str | None = None, limit: Limit = 20) -> Page[JobEvent]:
    """List what happened and what the steps measured, newest first."""
    return event_page(turnloom, turnloom.job(job), after, limit)


@ROUTER.get("/{job}/checkpoints")
def list_checkpoints(job: str, turnloom: Caller, after: str | None = None, limit: Limit = 10) -> Page[JobCheckpoint]:
    """List checkpoints that are kept, newest first."""
    found = turnloom.job(job)
    saved = reversed(turnloom.checkpoints(job))
    steps = ((one, next(iter(turnloom.steps(job, one.step, one.step)), None) if one.step else None) for one in saved)
    return page((checkpoint_object(found, one, step) for one, step in steps), after, limit)


def _labels(request: Request) -> dict[str, str]:
    """Return the labels that metadata[KEY]=VALUE asks for."""
    found: dict[str, str] = {}
    for name, text in request.query_params.multi_items():
        if name == "metadata":
            raise invalid("metadata", "is written metadata[KEY]=VALUE; jobs without any label can't be listed apart.")
        if name.startswith("metadata[") and name.endswith("]"):
            key = name[len("metadata[") : -1]
            if key.startswith(LABEL):
                raise invalid("metadata", f"labels that begin with {LABEL} are the service's own.")
            found[key] = text
    return found
