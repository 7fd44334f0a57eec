"""/v1/models: base models, and what jobs made of them. Tokens, not projects, say who may use a checkpoint."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Body

from services.rest import names
from services.rest.bodies import Deleted, Model, Page, Permission
from services.rest.problems import Problem, invalid, missing
from services.rest.service import Caller
from services.rest.views import seconds
from turnloom.v1 import training_pb2 as tr

ROUTER = APIRouter(tags=["models"])


@ROUTER.get("/models")
def list_models(turnloom: Caller) -> Page[Model]:
    """List base models, then fine-tuned ones, newest first."""
    bases = [_base(model.name) for model in turnloom.models()]
    tuned = [_tuned(job) for job in turnloom.jobs({}, tr.JOB_STATE_SUCCEEDED)]
    return Page[Model](data=[*bases, *tuned])


@ROUTER.get("/models/{model:path}")
def get_model(model: str, turnloom: Caller) -> Model:
    """Return one model."""
    if any(known.name == model for known in turnloom.models()):
        return _base(model)
    found = names.tuned(turnloom, model)
    if found.job.state != tr.JOB_STATE_SUCCEEDED and found.step is None:
        raise names.no_model(model)
    return _tuned(found.job).model_copy(update={"id": model})


@ROUTER.delete("/models/{model:path}")
def delete_model(model: str, turnloom: Caller) -> Deleted:
    """Remove a fine-tuned model with its job, checkpoints and adapters."""
    found = names.tuned(turnloom, model)
    if found.step is not None:
        raise invalid("model", "a checkpoint goes with its model; delete the model instead.")
    turnloom.delete_job(found.job.id)
    return Deleted(id=model, object="model")


def _base(name: str) -> Model:
    return Model(id=name, created=0, owned_by="turnloom")


def _tuned(job: tr.Job) -> Model:
    return Model(id=names.model_name(job), created=seconds(job.finish_time), owned_by=job.owner or names.NO_OWNER)


@ROUTER.get("/fine_tuning/checkpoints/{model:path}/permissions")
def list_permissions(model: str, turnloom: Caller) -> Page[Permission]:
    """List the projects that a checkpoint is shared with: none, as Turnloom has no projects."""
    names.tuned(turnloom, model)
    return Page[Permission](data=[])


@ROUTER.post("/fine_tuning/checkpoints/{model:path}/permissions")
def create_permission(model: str, turnloom: Caller, body: dict[str, Any] = Body()) -> Page[Permission]:  # noqa: B008
    """Refuse to share a checkpoint with a project."""
    names.tuned(turnloom, model)
    raise invalid("project_ids", "Turnloom has no projects; every token with the scope read may look at the model.")


@ROUTER.delete("/fine_tuning/checkpoints/{model:path}/permissions/{permission}")
def delete_permission(model: str, permission: str, turnloom: Caller) -> Deleted:
    """Refuse to delete a permission, since there is none."""
    names.tuned(turnloom, model)
    raise missing("permission", permission)


@ROUTER.post("/fine_tuning/alpha/graders/{action}")
def graders(action: str, turnloom: Caller, body: dict[str, Any] = Body()) -> None:  # noqa: B008
    """Refuse graders, which belong to reinforcement fine-tuning."""
    turnloom.caller()
    raise Problem(
        400, "Graders are not possible; Turnloom trains on conversations (method supervised).", param="grader"
    )
