"""Validate a job before it is queued, against records, files and the registry.

Violations of the request's fields are collected, so that the caller learns of all of them at once. A missing dataset or
host ends the check with its own error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from services.preprocess.datasets.states import ready
from services.preprocess.domain.caller import Caller, Scope
from services.preprocess.domain.job_draft import JobDraft, Sampled
from services.preprocess.domain.limits import Violations
from services.preprocess.domain.refusals import ModelNotServed, NotPermitted
from services.preprocess.jobs.estimate import Cost, Epoch, cost, epoch, known_rates, mixed
from services.preprocess.jobs.reply_prompts import check_sampling_host, reply_prompts
from services.preprocess.models.registry import Registry
from services.store.blobs.replies import ReplyPrompts
from services.store.records import CheckpointRecord, DatasetRecord, HostRecord, JobSpec, ReplySpec
from services.store.shards.shares import shares
from services.store.store import Store

RATE_JOBS: Final = 100  #: newest jobs looked at for a rate
SHAPE: Final = ("lora_rank", "train_mlp", "train_attn", "train_unembed")  #: hyperparameters that shape an adapter


@dataclass(frozen=True, slots=True)
class Checked:
    """A job that passed validation."""

    spec: JobSpec
    host: str  #: one where it can run now
    epoch: Epoch
    cost: Cost
    prompts: ReplyPrompts | None = None  #: that it answers while it trains


def check(draft: JobDraft, registry: Registry, store: Store, caller: Caller) -> Checked:
    """Validate a draft against models, datasets, checkpoints and hosts.

    Raises:
        UnknownModel, Loading, ModelNotServed: the model.
        NotFound, WrongState, NotPermitted: a dataset, a job or a checkpoint.
        InvalidRequest: things that do not fit together.
    """
    model = registry.get(draft.model)
    entry = registry.entries[draft.model]
    training = [_dataset(store, part.dataset, caller) for part in draft.training]
    test = _dataset(store, draft.test_dataset, caller) if draft.test_dataset else None
    violations = Violations()
    names = ["training_dataset"] if len(training) == 1 else [f"mix[{place}].dataset" for place in range(len(training))]
    for name, record in [*zip(names, training, strict=True), *([("test_dataset", test)] if test else [])]:
        if record.tokenizer_sha256 != model.tokenizer_sha256:
            violations.add(
                name,
                f"was made with the tokenizer of {record.model!r}, which is not that of {draft.model!r}; "
                "make the dataset with this model.",
            )
    for name, record in zip(names, training, strict=True):
        if record.template_sha256 != training[0].template_sha256:
            violations.add(
                name,
                f"is {record.id!r}, made with another chat template than {training[0].id!r}; "
                "make both with the same one.",
            )
    origin = _origin(draft, entry.tuft_model, store, caller, violations)
    chosen = draft.hyperparameters if origin is None else replace(draft.hyperparameters, **origin.shape)
    if test is None and chosen.early_stopping_patience:
        violations.add(
            "hyperparameters.early_stopping_patience", "is set without a test_dataset; name one to evaluate on."
        )
    one = _epoch(draft, training, chosen.max_length, violations)
    if test is not None:
        _check_left(test, epoch(test, chosen.max_length), chosen.max_length, violations)
    prompts = reply_prompts(draft.sampled, training[0], model, violations) if draft.sampled else None
    violations.refuse()
    bound = _bound(draft, origin)
    host = store.hosts.place(entry.tuft_model, chosen.lora_rank, bound)
    if prompts is not None:
        check_sampling_host(store, entry.tuft_model, chosen.lora_rank, bound, prompts)
    spec = JobSpec(
        model=draft.model,
        tuft_model=entry.tuft_model,
        training_dataset=training[0].id if len(training) == 1 else "",
        mix=draft.training if len(training) > 1 else (),
        test_dataset=test.id if test else "",
        hyperparameters=chosen,
        metadata=dict(draft.metadata),
        host=bound,
        priority=_priority(draft, caller),
        start_from=draft.start_from,
        owner=caller.name,
        replies=None if draft.sampled is None else _reply_spec(draft.sampled),
    )
    rates = known_rates(store.jobs.list(page_size=RATE_JOBS).items, entry.tuft_model, host, chosen)
    place = next((record for record in store.hosts.list() if record.name == host), HostRecord(name=host))
    return Checked(spec, host, one, cost(one, chosen, rates, place), prompts)


@dataclass(frozen=True, slots=True)
class _Origin:
    """The checkpoint that a job starts from."""

    checkpoint: CheckpointRecord
    host: str  #: where its files lie if they are not in the store
    shape: Mapping[str, Any]  #: hyperparameters of the adapter that the caller did not name


def _dataset(store: Store, dataset_id: str, caller: Caller) -> DatasetRecord:
    """Return a dataset that is READY and that the caller may read.

    Training on it reveals its contents, so reading rights are required.
    """
    record = store.datasets.get(dataset_id)
    caller.check_look(f"Dataset {record.id!r}", record.owner)
    return ready(record)


def _epoch(draft: JobDraft, training: Sequence[DatasetRecord], max_length: int | None, violations: Violations) -> Epoch:
    """Return the totals of one epoch; add a violation for a dataset of which none of it would be trained."""
    epochs = [epoch(record, max_length) for record in training]
    weights = [part.weight for part in draft.training]
    counts = shares(weights, sum(one.conversations for one in epochs))
    for place, (record, one, count) in enumerate(zip(training, epochs, counts, strict=True)):
        _check_left(record, one, max_length, violations)
        if one.conversations and count == 0:
            violations.add(
                f"mix[{place}].weight",
                f"is {weights[place]:g}; it gives {record.id!r} no conversation of an epoch. Give a larger one.",
            )
    return mixed(epochs, weights)


def _check_left(record: DatasetRecord, one: Epoch, max_length: int | None, violations: Violations) -> None:
    """Add a violation where max_length leaves nothing of a dataset: it would not be trained, or never evaluated."""
    if one.conversations == 0:
        violations.add(
            "hyperparameters.max_length",
            f"is {max_length}, which leaves no row of {record.id!r} a trained token; give a larger one.",
        )


def _origin(draft: JobDraft, tuft_model: str, store: Store, caller: Caller, violations: Violations) -> _Origin | None:
    """Return the checkpoint of start_from.

    Its adapter is loaded into the job's own, which takes its shape from it.
    """
    wanted = draft.start_from
    if wanted is None:
        return None
    job = store.jobs.get(wanted.job)
    caller.check_look(f"Job {job.id!r}", job.spec.owner)
    checkpoint = store.ledger.checkpoint(wanted.job, wanted.checkpoint)
    if job.spec.tuft_model != tuft_model:
        violations.add(
            "start_from.job",
            f"trained {job.spec.model!r}, not {draft.model!r}; start from a job of this model.",
        )
    shape = {name: getattr(job.spec.hyperparameters, name) for name in SHAPE}
    for name in SHAPE:
        here = getattr(draft.hyperparameters, name)
        if name in draft.given and here != shape[name]:
            violations.add(
                f"hyperparameters.{name}",
                f"is {here}, but the checkpoint of {job.id!r} has {shape[name]}; set that, or leave it out.",
            )
    return _Origin(checkpoint, job.host, {name: value for name, value in shape.items() if name not in draft.given})


def _reply_spec(sampled: Sampled) -> ReplySpec:
    return ReplySpec(prompts=len(sampled.prompts), every=sampled.every, max_tokens=sampled.max_tokens)


def _priority(draft: JobDraft, caller: Caller) -> int:
    if draft.priority > 0 and Scope.ADMIN not in caller.scopes:
        raise NotPermitted("priority: above 0 needs a token with the scope admin; leave it at 0 or below.")
    return draft.priority


def _bound(draft: JobDraft, origin: _Origin | None) -> str:
    """Return the host that a job must have, or "" for any.

    It is the host asked for, or the only one that holds its checkpoint's files.
    """
    only = origin.host if origin is not None and not origin.checkpoint.stored else ""
    if only and draft.host and draft.host != only:
        raise ModelNotServed(
            f"host: is {draft.host!r}, but checkpoint {origin.checkpoint.id!r} lies only on {only!r}; "  # type: ignore[union-attr]
            "leave it empty or name that one."
        )
    return draft.host or only
