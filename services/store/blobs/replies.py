"""Prompts of a job and its replies to them while it trains.

One JSON file holds the prompts, and each sampled step has one for its replies. Token ids only: what they say is for
whoever has the model. An attempt that comes to a step again finds its file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from services.store.blobs.files import below, locate, store_errors, whole_file
from services.store.codec import decode, encode
from services.store.errors import NotFound

_STEP: Final = re.compile(r"step-(\d+)\.json")


@dataclass(frozen=True, slots=True)
class ReplyPrompt:
    """One prompt, as the training rows have it."""

    asked: str  #: what a person reads of it: the text of its last message, cut short
    token_ids: tuple[int, ...]
    stop_ids: tuple[int, ...]  #: tokens that end the reply


@dataclass(frozen=True, slots=True)
class ReplyPrompts:
    """All prompts of a job, in the order in which they were given."""

    prompts: tuple[ReplyPrompt, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to one prompt."""

    token_ids: tuple[int, ...]  #: the stop token that ended it is the last
    finish_reason: str  #: "stop" or "length"


@dataclass(frozen=True, slots=True)
class StepReplies:
    """What the adapter said after a step."""

    step: int
    attempt: int  #: that sampled it
    time: float  #: seconds since 1970
    replies: tuple[Reply, ...]  #: one for each prompt, in their order


class Replies:
    """Files below one fsspec URL."""

    def __init__(self, store_url: str) -> None:
        self._store_url = store_url

    def put_prompts(self, job_id: str, prompts: ReplyPrompts) -> None:
        """Write the prompts of a job. May be repeated; raises StoreFull, StoreUnavailable."""
        self._put(job_id, "prompts.json", encode(prompts))

    def prompts(self, job_id: str) -> ReplyPrompts:
        """Read the prompts of a job. Raises NotFound, StoreUnavailable."""
        return decode(ReplyPrompts, self._get(job_id, "prompts.json"))

    def put(self, job_id: str, replies: StepReplies) -> None:
        """Write, or replace, the replies of one step. Raises StoreFull, StoreUnavailable."""
        self._put(job_id, f"step-{replies.step}.json", encode(replies))

    def get(self, job_id: str, step: int) -> StepReplies:
        """Read the replies of one step. Raises NotFound where there are none, StoreUnavailable."""
        return decode(StepReplies, self._get(job_id, f"step-{step}.json"))

    def steps(self, job_id: str) -> list[int]:
        """Return the steps that have replies, ascending. Raises StoreUnavailable."""
        url = below(self._store_url, "replies", job_id)
        system, path = locate(url)
        with store_errors(url):
            names = [name.rpartition("/")[2] for name in system.find(path)] if system.exists(path) else []
        return sorted(int(found[1]) for name in names if (found := _STEP.fullmatch(name)))

    def _put(self, job_id: str, name: str, text: str) -> None:
        with whole_file(below(self._store_url, "replies", job_id, name)) as file:
            file.write(text.encode())

    def _get(self, job_id: str, name: str) -> str:
        url = below(self._store_url, "replies", job_id, name)
        system, path = locate(url)
        with store_errors(url):
            if not system.exists(path):
                raise NotFound(f"of job {job_id} there is no {name.removesuffix('.json')} among its replies")
            with system.open(path, "rb") as file:
                return file.read().decode()
