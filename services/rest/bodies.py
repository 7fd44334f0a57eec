"""Requests and answers as OpenAI's clients have them. What a request may not hold is refused, never dropped."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError

from services.rest.problems import WRONG
from turnloom.characters import whole

Auto: TypeAlias = Literal["auto"]
Status: TypeAlias = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
T = TypeVar("T")


def taking(expected: str) -> WrapValidator:
    """Have a field say what it takes: of several types pydantic names the first alone, by a place of its own."""

    def check(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError(WRONG, "send {expected}", {"expected": expected}) from error

    return WrapValidator(check)


class Request(BaseModel):
    """A body that names every field it may have."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _in_unicode(cls, value: object) -> object:
        """Refuse half of a surrogate pair wherever it stands: JSON spells it, and no message can carry it."""
        if _broken(value):
            raise PydanticCustomError(WRONG, "send {expected}", {"expected": "whole characters, no half of a pair"})
        return value


def _broken(value: object) -> bool:
    """Return whether a text of parsed JSON, at any depth, can't be encoded; its depth is what the parser took."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            if whole(one) != one:
                return True
        elif isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
    return False


class Page(BaseModel, Generic[T]):
    """Some objects of a list."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class FileObject(BaseModel):
    """One uploaded file, or the steps of a job."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Literal["fine-tune", "fine-tune-results"]
    status: Literal["processed"] = "processed"
    status_details: str | None = None


class Deleted(BaseModel):
    """What was deleted."""

    id: str
    object: str
    deleted: bool = True


class SupervisedHyperparameters(Request):
    """OpenAI's three; docs/openai.md says what "auto" means."""

    n_epochs: Annotated[Auto | int | None, taking('a whole number or "auto"')] = None
    batch_size: Annotated[Auto | int | None, taking('a whole number or "auto"')] = None
    learning_rate_multiplier: Annotated[Auto | float | None, taking('a number or "auto"')] = None


class Supervised(Request):
    """Supervised fine-tuning."""

    hyperparameters: SupervisedHyperparameters | None = None


class Method(Request):
    """How to train; only supervised is possible."""

    type: Annotated[Literal["supervised", "dpo", "reinforcement"], taking('"supervised"')]
    supervised: Supervised | None = None
    dpo: dict[str, Any] | None = None
    reinforcement: dict[str, Any] | None = None


class Wandb(Request):
    """Where steps are mirrored to."""

    project: str
    entity: str | None = None
    name: str | None = None
    tags: list[str] | None = None


class Integration(Request):
    """A service that is told of the job."""

    type: Annotated[Literal["wandb"], taking('"wandb"')]
    wandb: Wandb


class Extension(Request):
    """What only Turnloom has: sent as extra_body={"turnloom": {...}}."""

    hyperparameters: dict[str, Any] = Field(default_factory=dict)  #: fields of turnloom.v1.Hyperparameters
    options: dict[str, Any] = Field(default_factory=dict)  #: fields of turnloom.v1.PreprocessOptions
    host: str = ""  #: GPU host; empty: one that serves the model
    webhook: str = ""  #: URL that is told when the job ends


class CreateJob(Request):
    """A fine-tuning job to create."""

    model: str
    training_file: str
    validation_file: str | None = None
    hyperparameters: SupervisedHyperparameters | None = None  #: OpenAI's old place of method.supervised
    method: Method | None = None
    suffix: str | None = None
    seed: int | None = None
    metadata: dict[str, str] | None = None
    integrations: list[Integration] | None = None
    turnloom: Extension = Field(default_factory=Extension)


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class JobState(BaseModel):
    """What Turnloom knows beyond OpenAI's fields."""

    state: str  #: of turnloom.v1.JobState, for example "PAUSED"
    step: int
    planned_steps: int
    attempt: int
    host: str
    training_dataset: str
    test_dataset: str
    learning_rate: float
    lora_rank: int
    loss_tokens: int  #: targets with weight > 0 that were trained
    train_nll: float | None = None  #: of the last step, nats per unit of weight
    test_nll: float | None = None  #: of the last evaluation
    training_seconds: float = 0.0  #: that workers held the job
    cost: float | None = None  #: of these, in `currency`; null where no host named a price
    currency: str | None = None  #: ISO 4217
    webhook: str | None = None  #: URL that is told when the job ends


class FineTuningJob(BaseModel):
    """One job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Status
    training_file: str
    validation_file: str | None
    hyperparameters: SupervisedHyperparameters
    method: Method
    result_files: list[str]
    trained_tokens: int | None
    estimated_finish: int | None
    error: JobError | None
    seed: int
    integrations: list[Integration]
    metadata: dict[str, str]
    turnloom: JobState


class JobEvent(BaseModel):
    """Something that happened in a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class CheckpointMetrics(BaseModel):
    """Losses at a checkpoint, nats per unit of weight."""

    step: int
    train_loss: float | None = None
    full_valid_loss: float | None = None


class JobCheckpoint(BaseModel):
    """A saved state of a job."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: CheckpointMetrics
    step_number: int


class Model(BaseModel):
    """A base model, or what a job made of one."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class Permission(BaseModel):
    """Never there: Turnloom has no projects."""

    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str


class WebhookSecret(BaseModel):
    """What the caller's webhooks are signed with."""

    secret: str  #: "whsec_" and base64
