"""What a worker does to a job, by the store alone, and the job as the API tells it then."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from services.store.pool.placing import Choice
from services.store.records import CheckpointRecord, JobState, StepRecord
from services.store.store import Store
from tests.support.api_calls import Api, make_dataset, make_job, wait_until
from turnloom.v1 import training_pb2 as pb

LIMIT = 30  #: seconds that any call here may take


def get(api: Api, job: str) -> pb.Job:
    return api.jobs.GetJob(pb.GetJobRequest(id=job), timeout=LIMIT).job


def running(store: Store, job: str, worker: str = "w1") -> int:
    """Claim the next attempt as a worker does; answers its number."""
    record = store.jobs.get(job)
    if not record.host:
        store.pool.assign([Choice(job, record.attempt, "gpu-a")])
    attempt = record.attempt + 1
    assert store.jobs.claim(job, attempt, worker) is not None
    return attempt


def commit(store: Store, job: str, attempt: int, step: int, **fields: object) -> None:
    record = StepRecord(
        step=step, attempt=attempt, epoch=1, tokens=100, loss_tokens=10, nll_sum=5.0, weight_sum=10.0, time=time.time()
    )
    store.ledger.commit_step(job, replace(record, **fields))  # type: ignore[arg-type]


def later(store: Store) -> None:
    """Wait until Redis's clock, which rates are measured with, shows another millisecond."""
    began = milliseconds(store)
    wait_until(lambda: milliseconds(store) > began)


def milliseconds(store: Store) -> int:
    seconds, microseconds = store.redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def checkpoint(store: Store, job: str, attempt: int, step: int) -> str:
    name = f"{job}-a{attempt}-s{step}"
    store.ledger.commit_checkpoint(
        job, CheckpointRecord(id=name, path=f"tinker://{name}", step=step, attempt=attempt, time=time.time())
    )
    return name


def finished_job(api: Api, store: Store, tmp_path: Path) -> str:
    """A job that ran three steps and left an adapter."""
    job = make_job(api, make_dataset(api).id).job.id
    attempt = running(store, job)
    for step in range(1, 4):
        commit(store, job, attempt, step)
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 8192)
    (folder / "optimizer.pt").write_bytes(b"state")
    stored = store.objects.put_folder(job, "final", folder)
    store.jobs.finish(job, attempt, JobState.SUCCEEDED, adapter_uri=stored.uri, adapter_sha256=stored.sha256)
    return job
