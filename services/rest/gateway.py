"""All calls to Turnloom, in the terms of the client library; only this module makes them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, cast

from services.rest.problems import missing
from turnloom.client import TurnloomClient
from turnloom.errors import NotFound
from turnloom.transport.calls import Tls
from turnloom.v1 import datasets_pb2 as ds
from turnloom.v1 import preprocess_pb2 as pp
from turnloom.v1 import training_pb2 as tr
from turnloom.v1 import types_pb2 as ty
from turnloom.wire.options import HyperparameterFields, PreprocessFields

KEPT: Final = 512  #: clients that are kept for tokens seen before
LAST: Final = 2**32 - 1  #: a step behind all others


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request."""

    name: str  #: of the token, and owner of what it makes; empty on a server without tokens
    scopes: frozenset[str]  #: "read", "submit", "admin"

    @property
    def only(self) -> str | None:
        """Return the owner whose objects a list shows; None: every owner."""
        return None if self.scopes & {"read", "admin"} else self.name

    @property
    def admin(self) -> bool:
        """Return whether the caller may change the objects of others."""
        return "admin" in self.scopes


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to create."""

    model: str
    training_dataset: str
    test_dataset: str
    metadata: Mapping[str, str]
    host: str
    request_id: str
    hyperparameters: Mapping[str, object]  #: fields of Hyperparameters


@dataclass(frozen=True, slots=True)
class NewDataset:
    """A dataset to make of conversations."""

    model: str
    display_name: str
    request_id: str
    metadata: Mapping[str, str]
    options: Mapping[str, object]  #: fields of PreprocessOptions


class Turnloom:
    """Calls on behalf of one caller. Methods raise turnloom.errors."""

    def __init__(self, client: TurnloomClient) -> None:
        self._client = client

    def caller(self) -> Caller:
        """Return name and scopes of the token; refused where the token is wrong."""
        info = self._client.server_info()
        return Caller(info.caller, frozenset(info.scopes))

    def models(self) -> list[pp.Model]:
        """Return the models that jobs may name."""
        return self._client.models.list()

    def create_dataset(self, asked: NewDataset, conversations: Iterable[ty.Conversation]) -> ds.Dataset:
        """Make a dataset, all or nothing."""
        return self._client.datasets.create(
            conversations,
            model=asked.model,
            display_name=asked.display_name,
            request_id=asked.request_id,
            metadata=asked.metadata,
            **cast(PreprocessFields, asked.options),
        )

    def dataset(self, dataset: str) -> ds.Dataset | None:
        """Return a dataset, or None where it is gone."""
        try:
            return self._client.datasets.retrieve(dataset)
        except NotFound:
            return None

    def create_job(self, asked: NewJob) -> tr.Job:
        """Queue a job."""
        return self._client.jobs.create(
            model=asked.model,
            training_dataset=asked.training_dataset,
            test_dataset=asked.test_dataset,
            request_id=asked.request_id,
            metadata=asked.metadata,
            host=asked.host,
            **cast(HyperparameterFields, asked.hyperparameters),
        )

    def job(self, job: str) -> tr.Job:
        """Return one job."""
        try:
            return self._client.jobs.retrieve(job)
        except NotFound:
            raise missing("fine-tuning job", job) from None

    def jobs(self, metadata: Mapping[str, str], *states: tr.JobState.ValueType) -> Iterator[tr.Job]:
        """Yield jobs, newest first, with all of these labels and in one of these states; no state: in any."""
        return self._client.jobs.list(states, metadata)

    def cancel(self, job: str) -> tr.Job:
        """Stop a job."""
        return self._client.jobs.cancel(job)

    def pause(self, job: str) -> tr.Job:
        """Have a job save, then pause."""
        return self._client.jobs.pause(job)

    def resume(self, job: str) -> tr.Job:
        """Queue a job again."""
        return self._client.jobs.resume(job)

    def delete_job(self, job: str) -> None:
        """Remove a finished job with its adapters."""
        self._client.jobs.delete(job)

    def events(self, job: str) -> list[tr.Event]:
        """Return events, oldest first."""
        return list(self._client.jobs.events(job))

    def steps(self, job: str, first: int = 1, until: int = LAST) -> Iterator[tr.Step]:
        """Yield the steps first..until of the effective series, ascending."""
        found = (step for step in self._client.jobs.steps(job, first) if step.step >= first)
        return takewhile(lambda step: step.step <= until, found)

    def series(self, job: str) -> Iterator[tr.Step]:
        """Yield the effective series, the evaluation before training included."""
        return self._client.jobs.steps(job)

    def checkpoints(self, job: str) -> list[tr.Checkpoint]:
        """Return the kept checkpoints, oldest first."""
        return self._client.jobs.checkpoints(job)

    def sample(
        self,
        job: str,
        conversation: ty.Conversation,
        *,
        checkpoint: str,
        max_tokens: int,
        temperature: float | None,
        top_p: float | None,
        seed: int | None,
    ) -> tr.SampleResponse:
        """Return a reply of a job's adapter."""
        return self._client.jobs.sample(
            job,
            conversation,
            checkpoint=checkpoint,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )


class Gateway:
    """A Turnloom for every token; connections of tokens seen before are kept."""

    def __init__(
        self, address: str, tls: Tls | None, open_client: Callable[..., TurnloomClient] = TurnloomClient
    ) -> None:
        self._address = address
        self._tls = tls
        self._open = open_client
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, TurnloomClient] = OrderedDict()

    def of(self, token: str) -> Turnloom:
        """Return the Turnloom of a token; "" stands for no token."""
        with self._lock:
            client = self._kept.pop(token, None) or self._open(self._address, token or None, tls=self._tls)
            self._kept[token] = client
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)  # it closes when the last request that holds it has ended
        return Turnloom(client)

    def close(self) -> None:
        """End every connection."""
        with self._lock:
            for client in self._kept.values():
                client.close()
            self._kept.clear()
