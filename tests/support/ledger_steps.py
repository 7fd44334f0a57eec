"""Steps and checkpoints of a job, written to the ledger as a worker does."""

from __future__ import annotations

from services.store.ledger import Outcome
from services.store.records import CheckpointRecord, EventRecord, Hyperparameters, JobRecord, JobSpec, StepRecord
from services.store.store import Store, open_store

SPEC = JobSpec(
    "tiny", "turnloom/tiny", "ds-train", "ds-test", Hyperparameters(learning_rate=0.1 + 0.2), {"run": "é"}, "anna"
)


def store_of_two_datasets(redis_url: str) -> Store:
    """Open the store, with the datasets of SPEC ready."""
    store = open_store(redis_url)
    for name in ("ds-train", "ds-test"):
        store.redis.hset(f"tl:api:dataset:{name}", "state", "ready")
    return store


def queued(store: Store, spec: JobSpec = SPEC) -> JobRecord:
    job = store.jobs.create(spec).job
    return store.jobs.queue(job.id, host="h1", planned_steps=10)


def running(store: Store, spec: JobSpec = SPEC) -> JobRecord:
    claim = store.jobs.claim(queued(store, spec).id, 1, "w1")
    assert claim is not None
    return claim.job


def step(number: int, attempt: int = 1, nll: float | None = None, test: float | None = None) -> StepRecord:
    return StepRecord(
        step=number, attempt=attempt, epoch=1, conversations=2, rows=3, tokens=100, loss_tokens=40, target_bytes=160,
        nll_sum=0.1 * number if nll is None else nll, weight_sum=40.0, objective=1.0, learning_rate=1e-4 / 3,
        phase_seconds={"data": 0.001, "forward_backward": 0.3}, time=1.5,
        test_nll_sum=test, test_weight_sum=None if test is None else 10.0,
        test_target_bytes=None if test is None else 25,
    )  # fmt: skip


def checkpoint(job: JobRecord, number: int, attempt: int = 1, test: float | None = None) -> CheckpointRecord:
    name = f"{job.id}-a{attempt}-s{number}"
    return CheckpointRecord(name, f"tinker://{name}", number, attempt, probe_nll=1 / 3, test_nll=test)


def train(store: Store, job: JobRecord, first: int, last: int, attempt: int = 1) -> None:
    for number in range(first, last + 1):
        assert store.ledger.commit_step(job.id, step(number, attempt)).outcome is Outcome.OK


def save(store: Store, job: JobRecord, number: int, attempt: int = 1, test: float | None = None) -> str:
    record = checkpoint(job, number, attempt, test)
    assert store.ledger.commit_checkpoint(job.id, record).outcome is Outcome.OK
    return record.id


def series(store: Store, job: JobRecord) -> list[tuple[int, int]]:
    return [(record.step, record.attempt) for record in store.ledger.steps(job.id)]


def events(store: Store, job: JobRecord) -> list[EventRecord]:
    return list(store.events.list(job.id).items)
