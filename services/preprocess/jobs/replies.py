"""Read what a job's adapter said while it trained: ids become text here, where the model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.preprocess.domain.said import Said
from services.preprocess.jobs.prompt import reply_text
from services.preprocess.models.registry import Registry
from services.store.blobs.replies import Reply, ReplyPrompt
from services.store.errors import NotFound
from services.store.records import EventRecord, JobRecord
from services.store.store import Store
from turnloom.masks.model import Model

REPLY: Final = "REPLY"  #: type of the trainer's events (services/trainer/replies.py)
MOST_STEPS: Final = 32  #: of a page


@dataclass(frozen=True, slots=True)
class Page:
    """Replies in order of steps, then of prompts."""

    said: Sequence[Said]
    last: int  #: step of the last of them, where more follow; 0: none do


def replies(store: Store, registry: Registry, job: JobRecord, step: int | None, after: int, size: int) -> Page:
    """Read a page.

    Args:
        store: of the job.
        registry: has its model.
        job: the job.
        step: the only step wanted; None: all.
        after: steps up to this one are passed over.
        size: steps at most.

    Raises:
        NotFound: that step has none.
        UnknownModel, Loading: the job's model is not served here, so nobody knows what its tokens say.
    """
    model = registry.get(job.spec.model)
    if job.spec.replies is None:
        if step is not None:
            raise NotFound(f"job {job.id} has no sample_prompts, so there are no replies")
        return Page((), 0)
    steps = [step] if step is not None else [one for one in store.replies.steps(job.id) if one > after]
    prompts = store.replies.prompts(job.id).prompts
    said = [one for number in steps[:size] for one in _said(store, job.id, number, prompts, model)]
    return Page(said, steps[size - 1] if len(steps) > size else 0)


def _said(store: Store, job: str, step: int, prompts: Sequence[ReplyPrompt], model: Model) -> list[Said]:
    found = store.replies.get(job, step)
    return [
        Said(step, place, prompt.asked, _text(reply, model), len(reply.token_ids), reply.finish_reason, found.time)
        for place, (prompt, reply) in enumerate(zip(prompts, found.replies, strict=True), start=1)
    ]


def _text(reply: Reply, model: Model) -> str:
    stop = reply.token_ids[-1:] if reply.finish_reason == "stop" else ()
    return reply_text(reply.token_ids, stop, model)


def readable(event: EventRecord, job: JobRecord, registry: Registry) -> EventRecord:
    """Return an event with the reply's text in place of its ids; any other event as it is."""
    ids = event.fields.get("token_ids")
    if event.type != REPLY or ids is None:
        return event
    fields = {name: value for name, value in event.fields.items() if name != "token_ids"}
    model = registry.loaded(job.spec.model)
    if model is None:  # not served here (any more): the event still says that there was a reply
        return replace(event, fields=fields)
    text = reply_text([int(word) for word in ids.split()], (), model) + ("..." if fields.get("cut") else "")
    message = f"Step {fields['step']}, prompt {fields['prompt']}: {text}"
    return replace(event, message=message, fields={**fields, "text": text})
