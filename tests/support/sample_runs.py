"""A host without a trainer that the test plays: what it is asked to sample, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from services.store.queueing.queues import queue_name
from services.store.records import CheckpointRecord, JobRecord, JobState
from services.store.store import Store
from tests.support.api_calls import Api, wait_until
from tests.support.rq_workers import sign_in
from turnloom.v1 import training_pb2 as tr
from turnloom.v1 import types_pb2 as ty

LIMIT = 30


def ended(store: Store, job: str) -> JobRecord:
    """The job, failed after checkpoint 0."""
    store.tickets.drop(store.jobs.get(job))
    assert store.jobs.claim(job, 1, "w") is not None
    checkpoint = CheckpointRecord(id=f"{job}-a1-s0", path="tinker://run/weights/x", step=0, attempt=1)
    store.ledger.commit_checkpoint(job, checkpoint)
    return store.jobs.finish(job, 1, JobState.FAILED)


def man(store: Store, workers: int = 1) -> None:
    """Workers that are registered and take nothing."""
    sign_in(store, queue_name("gpu-a"), workers)


def waiting(store: Store) -> list[str]:
    return store.tickets.waiting("gpu-a")


@dataclass
class Played:
    """A worker in this thread that answers every prompt alike; `orders` is what it was given."""

    api: Api
    store: Store
    orders: list[dict[str, object]] = field(default_factory=list)
    answer: object = None

    def run(self, **order: object) -> object:
        self.orders.append(order)
        return self.answer

    def sample(self, job: str, conversation: ty.Conversation, answer: object, **fields: object) -> tr.SampleResponse:
        self.answer = answer
        man(self.store)
        request = tr.SampleRequest(job=job, conversation=conversation, **fields)  # type: ignore[arg-type]
        asked = self.api.jobs.Sample.future(request, timeout=LIMIT)
        wait_until(lambda: bool(waiting(self.store)))
        queue = Queue(queue_name("gpu-a"), connection=self.store.rq, serializer=JSONSerializer)
        worker = SimpleWorker([queue], connection=self.store.rq, serializer=JSONSerializer)
        worker.work(burst=True)
        found: tr.SampleResponse = asked.result()
        return found
