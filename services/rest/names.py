"""Names of fine-tuned models and their checkpoints; a name contains its job.

ft:BASE:OWNER:SUFFIX:JOB                     JOB is the job's id without "job-"
ft:BASE:OWNER:SUFFIX:JOB:ckpt-step-STEP
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from services.quoting import cut
from services.rest.gateway import Turnloom
from services.rest.problems import Problem, invalid
from turnloom.errors import InvalidArgument
from turnloom.v1 import training_pb2 as tr

LABEL: Final = "openai."  #: labels of a job that this service sets begin so
TRAINING_FILE: Final = f"{LABEL}training_file"
VALIDATION_FILE: Final = f"{LABEL}validation_file"
SUFFIX: Final = f"{LABEL}suffix"
WANDB: Final = f"{LABEL}wandb"
WEBHOOK: Final = f"{LABEL}webhook"
NOTIFY: Final = f"{LABEL}notify"  #: "1" where somebody is told of the job's end
NO_OWNER: Final = "turnloom"  #: stands for the owner on a server without tokens
RESULTS: Final = "file-results-"  #: and the job's id without "job-": its steps as a file
_CHECKPOINT: Final = re.compile(r"(?P<model>.+):ckpt-step-(?P<step>\d{1,9})")
_SUFFIX: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Tuned:
    """A fine-tuned model, or a checkpoint of it."""

    job: tr.Job
    step: int | None  #: of the checkpoint; None: the final adapter


def check_suffix(text: str) -> str:
    """Return a suffix that fits into a name."""
    if text and not _SUFFIX.fullmatch(text):
        raise invalid("suffix", "can't be used; send 64 letters, digits, dots, dashes and underscores at most.")
    return text


def model_name(job: tr.Job) -> str:
    """Return the name under which a job's adapter answers."""
    suffix = job.metadata.get(SUFFIX, "")
    return f"ft:{job.model}:{job.owner or NO_OWNER}:{suffix}:{job.id.removeprefix('job-')}"


def checkpoint_name(job: tr.Job, step: int) -> str:
    """Return the name under which a checkpoint answers."""
    return f"{model_name(job)}:ckpt-step-{step}"


def results_name(job: tr.Job) -> str:
    """Return the id of the file of a job's steps."""
    return f"{RESULTS}{job.id.removeprefix('job-')}"


def tuned(turnloom: Turnloom, name: str) -> Tuned:
    """Return the job that a model's name stands for.

    Raises:
        Problem: there is none that the caller may look at, or it is a base model.
    """
    found = _CHECKPOINT.fullmatch(name)
    plain = found["model"] if found else name
    if plain.startswith("ft:"):
        try:
            job = turnloom.job(f"job-{plain.rsplit(':', 1)[-1]}")
            if model_name(job) == plain:
                return Tuned(job, int(found["step"]) if found else None)
        except (Problem, InvalidArgument) as error:
            if isinstance(error, Problem) and error.status != 404:
                raise
    elif any(known.name == name for known in turnloom.models()):
        raise invalid("model", f"{name!r} is a base model; name a fine-tuned one (ft:...), as /v1/models lists them.")
    raise no_model(name)


def no_model(name: str) -> Problem:
    """Return the answer for a missing model."""
    return Problem(
        404,
        f"The model {cut(name)!r} does not exist; /v1/models lists those that do.",
        param="model",
        code="model_not_found",
    )
