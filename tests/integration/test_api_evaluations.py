"""GetEvaluation: what each test example lost, as the trainer kept it, and what is said where it kept nothing."""

from __future__ import annotations

import numpy as np
import pytest

from services.store.blobs.evaluations import RowLosses
from services.store.errors import NotFound as Missing
from services.store.records import JobState, StepRecord
from services.store.store import Store
from tests.support.api_calls import MODEL, Api, make_dataset
from turnloom.client import TurnloomClient
from turnloom.errors import FailedPrecondition, NotFound
from turnloom.results.fetching import fetch
from turnloom.v1 import training_pb2 as pb

pytestmark = pytest.mark.usefixtures("gpu_host")
LOSSES = RowLosses(
    np.array([0, 0, 70_000], np.uint32), np.array([1.5, 2.5, 4], np.float32), np.array([1, 2, 0.5], np.float32)
)


@pytest.fixture
def job(api: Api, store: Store) -> str:
    """A finished job, evaluated after steps 0 and 1."""
    dataset = make_dataset(api).id
    made = api.jobs.CreateJob(
        pb.CreateJobRequest(model=MODEL, training_dataset=dataset, test_dataset=dataset), timeout=30
    )
    job = made.job.id
    store.jobs.claim(job, 1, "w")
    test = {"test_nll_sum": 8.0, "test_weight_sum": 3.5}
    store.ledger.commit_step(job, StepRecord(0, 1, **test))
    store.ledger.commit_step(job, StepRecord(1, 1, nll_sum=1.0, weight_sum=1.0, **test))
    store.jobs.finish(job, 1, JobState.SUCCEEDED)
    return job


def test_the_last_evaluation_comes_back_by_row_and_an_earlier_one_by_its_step(api: Api, store: Store, job: str) -> None:
    store.evaluations.put(job, 1, LOSSES)
    with TurnloomClient(api.address) as client:
        for found in (client.jobs.evaluation(job), client.jobs.evaluation(job, 1)):
            assert found.step == 1
            for name in ("conversation", "nll_sum", "weight_sum"):
                assert getattr(found, name).tolist() == getattr(LOSSES, name).tolist()
        with pytest.raises(NotFound, match=r"the loss of each test example at step 0 was not kept"):
            client.jobs.evaluation(job, 0)
        (run,) = fetch(client, [client.jobs.retrieve(job)])
    assert list(run.losses) == [1]


def test_a_job_without_the_record_is_compared_without_and_one_without_an_evaluation_says_so(
    api: Api, store: Store, job: str
) -> None:
    dataset = make_dataset(api).id
    bare = api.jobs.CreateJob(pb.CreateJobRequest(model=MODEL, training_dataset=dataset), timeout=30).job.id
    with TurnloomClient(api.address) as client:
        (run,) = fetch(client, [client.jobs.retrieve(job)])
        assert dict(run.losses) == {}
        with pytest.raises(FailedPrecondition, match="has no evaluation yet"):
            client.jobs.evaluation(bare)


def test_deleting_a_job_deletes_its_evaluations(api: Api, store: Store, job: str) -> None:
    store.evaluations.put(job, 1, LOSSES)
    api.jobs.DeleteJob(pb.DeleteJobRequest(id=job), timeout=30)
    with pytest.raises(Missing, match="was not kept"):
        store.evaluations.get(job, 1)
