"""FineTuningService: jobs are checked before they are queued, steered, and watched without a loss or a repetition."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from services.store.connection import connect_rq
from services.store.errors import RedisUnavailable
from services.store.ids import new_id
from services.store.jobs import Jobs
from services.store.pool.placing import Choice
from services.store.records import (
    CheckpointRecord,
    ErrorRecord,
    GpuRecord,
    HostRecord,
    JobState,
    ServedModelRecord,
    StepRecord,
)
from services.store.store import Store
from services.trainer.supervision.supervisor import Supervisor, SupervisorSettings
from tests.support.api_calls import (
    MODEL,
    TUFT_MODEL,
    Api,
    Start,
    chat,
    dataset_stream,
    make_dataset,
    make_job,
    options,
    placed,
    read_refusal,
    refusal,
    wait_until,
)
from turnloom.v1 import training_pb2 as pb

if TYPE_CHECKING:  # pytest rewrites the module when it loads it as a plugin, so it may not be imported before
    from tests.support.redis_fixtures import RedisServer

LIMIT = 30  #: seconds that any call here may take
Hyper = pb.Hyperparameters


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


@pytest.mark.usefixtures("gpu_host")
class TestCreateJob:
    """What is checked, and what becomes of a good request."""

    def test_a_good_request_is_queued_on_the_host_with_its_ticket(self, api: Api, store: Store) -> None:
        dataset, test = make_dataset(api, 10), make_dataset(api, 3)
        answer = make_job(api, dataset.id, test_dataset=test.id, metadata={"team": "a"})
        job = answer.job
        assert job.state == pb.JOB_STATE_QUEUED
        assert (job.host, job.attempt, job.progress.planned_steps) == ("", 0, 3), "it waits for a free worker"
        assert (job.training_dataset, job.test_dataset, job.metadata["team"]) == (dataset.id, test.id, "a")
        assert (job.hyperparameters.lora_rank, job.hyperparameters.epochs) == (8, 1)
        assert job.hyperparameters.learning_rate == 1e-4
        assert answer.estimate.steps == 3
        assert (answer.estimate.tokens, answer.estimate.trained_tokens) == (dataset.tokens, dataset.loss_tokens)
        assert not answer.estimate.HasField("gpu_seconds")
        assert [one.job for one in store.pool.waiting()] == [job.id]
        assert get(api, job.id) == job

    def test_a_dry_run_estimates_and_creates_nothing(self, api: Api, store: Store) -> None:
        dataset = make_dataset(api, 10)
        answer = make_job(
            api, dataset.id, validate_only=True, request_id="r", hyperparameters=Hyper(batch_size=4, epochs=3)
        )
        assert answer.job.id == ""
        assert answer.job.host == "gpu-a"
        assert answer.estimate.steps == 9
        assert answer.estimate.tokens == 3 * dataset.tokens
        assert not store.jobs.list().items
        assert store.tickets.waiting("gpu-a") == []

    def test_the_estimate_knows_the_time_once_a_job_had_a_rate_and_calls_it_gpu_time_where_there_is_one(
        self, api: Api, store: Store, gpu_host: HostRecord
    ) -> None:
        dataset = make_dataset(api, 10)
        job = make_job(api, dataset.id).job.id
        attempt = running(store, job)
        for step in range(1, 7):
            commit(store, job, attempt, step)
            later(store)
        rate = store.jobs.get(job).tokens_per_second
        assert rate > 0
        answer = make_job(api, dataset.id, validate_only=True)
        assert answer.estimate.seconds == pytest.approx(dataset.tokens / rate)
        assert not answer.estimate.HasField("gpu_seconds")
        assert (answer.estimate.seconds_low, answer.estimate.seconds_high, answer.estimate.rate_jobs) == (
            pytest.approx(answer.estimate.seconds / 2),
            pytest.approx(answer.estimate.seconds * 2),
            1,
        )
        assert not answer.estimate.HasField("cost")
        priced = replace(gpu_host, gpus=(GpuRecord("H200", "GPU-1", 1),), hour_price=3.6, currency="EUR")
        store.hosts.put(priced, ttl=300)
        answer = make_job(api, dataset.id, validate_only=True)
        assert answer.estimate.gpu_seconds == answer.estimate.seconds
        assert answer.estimate.cost == pytest.approx(answer.estimate.seconds / 1000)
        assert answer.estimate.currency == "EUR"
        (shown,) = api.jobs.ListHosts(pb.ListHostsRequest()).hosts
        assert (shown.hour_price, shown.currency) == (3.6, "EUR")

    def test_a_request_id_makes_one_job_and_other_content_is_refused(self, api: Api, store: Store) -> None:
        dataset = make_dataset(api)
        first = make_job(api, dataset.id, request_id="r1")
        again = make_job(api, dataset.id, request_id="r1")
        assert (first.deduplicated, again.deduplicated, again.job.id) == (False, True, first.job.id)
        said = refusal(lambda: make_job(api, dataset.id, request_id="r1", metadata={"a": "b"}))
        assert said.code is grpc.StatusCode.ALREADY_EXISTS
        assert first.job.id in said.message
        assert len(store.jobs.list().items) == 1
        assert [one.job for one in store.pool.waiting()] == [first.job.id]

    def test_a_retry_queues_the_job_that_a_crashed_server_left_unqueued(
        self, api: Api, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = make_dataset(api)

        def crash(*_: object, **__: object) -> None:
            raise RedisUnavailable("gone")

        with monkeypatch.context() as patch:
            patch.setattr(Jobs, "queue", crash)
            said = refusal(lambda: make_job(api, dataset.id, request_id="r1"))
        assert said.code is grpc.StatusCode.UNAVAILABLE
        (left,) = store.jobs.list().items
        assert left.state is JobState.VALIDATING
        again = make_job(api, dataset.id, request_id="r1")
        assert (again.deduplicated, again.job.id, again.job.state) == (True, left.id, pb.JOB_STATE_QUEUED)
        assert [one.job for one in store.pool.waiting()] == [left.id]

    def test_a_request_id_is_answered_after_the_dataset_is_gone(self, api: Api) -> None:
        dataset = make_dataset(api)
        first = make_job(api, dataset.id, request_id="r1").job.id
        api.jobs.CancelJob(pb.CancelJobRequest(id=first), timeout=LIMIT)
        from turnloom.v1 import datasets_pb2

        api.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(id=dataset.id), timeout=LIMIT)
        assert make_job(api, dataset.id, request_id="r1").job.id == first

    @pytest.mark.parametrize(
        ("fields", "field", "sentence"),
        [
            ({"hyperparameters": Hyper(lora_rank=0)}, "hyperparameters.lora_rank",
             "is 0; give 1 to 4096."),
            ({"hyperparameters": Hyper(learning_rate=0)}, "hyperparameters.learning_rate",
             "is 0; give a number above 0 and at most 1."),
            ({"hyperparameters": Hyper(early_stopping_patience=2)}, "hyperparameters.early_stopping_patience",
             "is set without a test_dataset; name one to evaluate on."),
            ({"model": ""}, "model", "is not set; choose a model that ListModels shows."),
            ({"training_dataset": ""}, "training_dataset", "is not set; give the id of a dataset that is READY."),
            ({"request_id": "x" * 129}, "request_id", "has 129 bytes; send 128 at most."),
            ({"metadata": {"": "x"}}, "metadata", "has a label with an empty key; name it."),
            ({"start_from": pb.StartFrom()}, "start_from.job",
             "is not set; give the id of the job that saved the checkpoint."),
        ],
    )  # fmt: skip
    def test_bad_fields_are_refused_with_value_and_limit(
        self, api: Api, store: Store, fields: dict[str, object], field: str, sentence: str
    ) -> None:
        dataset = make_dataset(api)
        said = refusal(lambda: make_job(api, dataset.id, **fields))
        assert said.code is grpc.StatusCode.INVALID_ARGUMENT
        assert said.fields == {field: sentence}
        assert not store.jobs.list().items

    def test_a_dataset_that_does_not_exist_is_not_found(self, api: Api) -> None:
        said = refusal(lambda: make_job(api, "ds-none"))
        assert (said.code, said.message) == (grpc.StatusCode.NOT_FOUND, "There is no dataset ds-none.")
        dataset = make_dataset(api).id
        said = refusal(lambda: make_job(api, dataset, test_dataset="ds-nope"))
        assert (said.code, said.message) == (grpc.StatusCode.NOT_FOUND, "There is no dataset ds-nope.")

    def test_an_unknown_model_is_not_found(self, api: Api) -> None:
        said = refusal(lambda: make_job(api, make_dataset(api).id, model="gpt"))
        assert said.code is grpc.StatusCode.NOT_FOUND
        assert "served: small/chat" in said.message

    def test_a_dataset_of_another_tokenizer_is_refused(self, api: Api, store: Store) -> None:
        record = store.datasets.get(make_dataset(api).id)
        other = replace(record, id=new_id("ds"), tokenizer_sha256="0" * 64, model="other")
        store.datasets.create(other)
        said = refusal(lambda: make_job(api, other.id))
        assert said.fields == {
            "training_dataset": "was made with the tokenizer of 'other', which is not that of 'small/chat'; "
            "make the dataset with this model."
        }

    def test_a_rank_that_no_host_serves_is_refused_at_once_with_what_is_served(self, api: Api, store: Store) -> None:
        dataset = make_dataset(api)
        said = refusal(lambda: make_job(api, dataset.id, hyperparameters=Hyper(lora_rank=65)))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        assert said.reason == "NO_HOST"
        assert said.message == (
            f"No host serves model {TUFT_MODEL} at LoRA rank 65; gpu-a serves {TUFT_MODEL} (rank <= 64)."
        )
        assert not store.jobs.list().items

    def test_a_host_that_is_not_alive_is_refused(self, api: Api) -> None:
        said = refusal(lambda: make_job(api, make_dataset(api).id, host="gpu-z"))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        assert said.message.startswith("Host gpu-z has not reported; gpu-a serves ")

    def test_a_smaller_max_length_reports_what_it_cuts(self, api: Api) -> None:
        chats = [chat("a", "b")] * 3 + [chat("a", "word " * 50), chat("long " * 60, "reply")]
        dataset = api.datasets.CreateDataset(dataset_stream(chats), timeout=LIMIT).dataset
        answer = make_job(api, dataset.id, validate_only=True, hyperparameters=Hyper(max_length=30, batch_size=1))
        assert (answer.job.cut.cut_rows, answer.job.cut.emptied_rows) == (2, 1)
        assert answer.estimate.steps == 4
        assert answer.estimate.tokens < dataset.tokens
        assert answer.estimate.trained_tokens < dataset.loss_tokens
        said = refusal(lambda: make_job(api, dataset.id, hyperparameters=Hyper(max_length=2)))
        assert said.fields["hyperparameters.max_length"].startswith("is 2, which leaves no row of ")

    def test_a_job_may_begin_from_a_checkpoint_of_the_same_shape_only(self, api: Api, store: Store) -> None:
        dataset = make_dataset(api)
        base = make_job(api, dataset.id).job.id
        attempt = running(store, base)
        saved = checkpoint(store, base, attempt, 0)
        job = make_job(api, dataset.id, start_from=pb.StartFrom(job=base, checkpoint=saved)).job
        assert (job.start_from.job, job.start_from.checkpoint) == (base, saved)
        said = refusal(
            lambda: make_job(api, dataset.id, start_from=pb.StartFrom(job=base), hyperparameters=Hyper(lora_rank=16))
        )
        assert said.fields == {
            "hyperparameters.lora_rank": f"is 16, but the checkpoint of {base!r} has 8; set that, or leave it out."
        }
        chosen = make_job(api, dataset.id, start_from=pb.StartFrom(job=base), hyperparameters=Hyper()).job
        assert chosen.hyperparameters.lora_rank == 8
        said = refusal(lambda: make_job(api, dataset.id, start_from=pb.StartFrom(job="job-none")))
        assert said.code is grpc.StatusCode.NOT_FOUND
        said = refusal(lambda: make_job(api, dataset.id, start_from=pb.StartFrom(job=base, checkpoint="x")))
        assert said.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)

    def test_a_checkpoint_that_lies_on_one_host_only_keeps_the_job_there(self, api: Api, store: Store) -> None:
        dataset = make_dataset(api)
        base = make_job(api, dataset.id).job.id
        checkpoint(store, base, running(store, base), 0)
        store.hosts.put(HostRecord(name="gpu-0", models=(ServedModelRecord(TUFT_MODEL, 64),), backend_up=True), ttl=300)
        free = make_job(api, dataset.id).job.id
        bound = make_job(api, dataset.id, start_from=pb.StartFrom(job=base)).job.id
        assert {one.job: one.host for one in store.pool.waiting()} == {free: "", bound: "gpu-a"}
        said = refusal(lambda: make_job(api, dataset.id, start_from=pb.StartFrom(job=base), host="gpu-0"))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        assert "lies only on 'gpu-a'" in said.message


def test_without_any_host_a_job_is_refused_and_says_what_to_start(api: Api) -> None:
    said = refusal(lambda: make_job(api, make_dataset(api).id))
    assert said.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "start a trainer worker (python -m services.trainer)" in said.message


@pytest.mark.parametrize("method", ["GetJob", "CancelJob", "PauseJob", "ResumeJob", "DeleteJob", "WatchJob"])
def test_a_job_that_does_not_exist_is_not_found(api: Api, method: str) -> None:
    request = getattr(pb, f"{method}Request")(id="job-none")

    def call() -> object:
        answer = getattr(api.jobs, method)(request, timeout=LIMIT)
        return list(answer) if method == "WatchJob" else answer

    said = refusal(call)
    assert (said.code, said.message) == (grpc.StatusCode.NOT_FOUND, "There is no job job-none.")


@pytest.mark.parametrize("method", ["ListEvents", "ListSteps", "ListCheckpoints", "DownloadAdapter"])
def test_lists_of_a_job_that_does_not_exist_are_not_found(api: Api, method: str) -> None:
    request = getattr(pb, f"{method}Request")(job="job-none")

    def call() -> object:
        answer = getattr(api.jobs, method)(request, timeout=LIMIT)
        return list(answer) if method == "DownloadAdapter" else answer

    assert refusal(call).code is grpc.StatusCode.NOT_FOUND


@pytest.mark.usefixtures("gpu_host")
class TestSteering:
    """Cancel, pause, resume, delete."""

    def test_a_queued_job_is_cancelled_at_once_and_its_ticket_is_gone(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        assert api.jobs.CancelJob(pb.CancelJobRequest(id=job), timeout=LIMIT).job.state == pb.JOB_STATE_CANCELLED
        assert store.tickets.waiting("gpu-a") == []
        assert api.jobs.CancelJob(pb.CancelJobRequest(id=job), timeout=LIMIT).job.state == pb.JOB_STATE_CANCELLED

    def test_a_running_job_is_asked_and_the_next_commit_tells_it(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        attempt = running(store, job)
        assert api.jobs.PauseJob(pb.PauseJobRequest(id=job), timeout=LIMIT).job.state == pb.JOB_STATE_PAUSING
        assert store.jobs.renew(job, attempt).value == "pause"
        store.jobs.finish(job, attempt, JobState.PAUSED)
        resumed = api.jobs.ResumeJob(pb.ResumeJobRequest(id=job), timeout=LIMIT).job
        assert resumed.state == pb.JOB_STATE_QUEUED
        assert [one.job for one in store.pool.waiting()] == [job]
        attempt = running(store, job)
        assert api.jobs.CancelJob(pb.CancelJobRequest(id=job), timeout=LIMIT).job.state == pb.JOB_STATE_CANCELLING

    def test_a_job_in_the_wrong_state_says_which_it_is_in(self, api: Api) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        said = refusal(lambda: api.jobs.PauseJob(pb.PauseJobRequest(id=job), timeout=LIMIT))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        assert "queued" in said.message.lower()
        said = refusal(lambda: api.jobs.DeleteJob(pb.DeleteJobRequest(id=job), timeout=LIMIT))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION

    def test_a_deleted_job_is_gone_with_its_adapter(self, api: Api, store: Store, tmp_path: Path) -> None:
        job = finished_job(api, store, tmp_path)
        api.jobs.DeleteJob(pb.DeleteJobRequest(id=job), timeout=LIMIT)
        assert refusal(lambda: get(api, job)).code is grpc.StatusCode.NOT_FOUND
        assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file() and job in str(path)]

    def test_a_deleted_job_leaves_no_key_and_no_object(self, api: Api, store: Store, tmp_path: Path) -> None:
        dataset = make_dataset(api).id
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")

        def life() -> set[str]:
            """Everything that a job can leave, then DeleteJob; answers all keys."""
            job = make_job(api, dataset, request_id="one", metadata={"a": "b"}).job.id
            store.tickets.drop(store.jobs.get(job))  # no worker is here to take it
            store.ledger.commit_step(job, StepRecord(0, running(store, job), test_nll_sum=1.0, test_weight_sum=2.0))
            checkpoint(store, job, 1, 0)
            commit(store, job, 1, 1, test_nll_sum=1.0, test_weight_sum=2.0)
            store.tickets.enqueue(store.jobs.release(job, 1, "crash", "It crashed."))
            store.tickets.drop(store.jobs.get(job))
            attempt = running(store, job)
            commit(store, job, attempt, 1)
            checkpoint(store, job, attempt, 1)
            store.objects.put_folder(job, "final", adapter)
            store.jobs.finish(job, attempt, JobState.FAILED, ErrorRecord("X", "x"))
            Supervisor(store, SupervisorSettings("", str(tmp_path / "store"))).archive()
            assert store.jobs.get(job).archive_uri
            api.jobs.DeleteJob(pb.DeleteJobRequest(id=job), timeout=LIMIT)
            assert not [key for key in store.redis.scan_iter() if job in key]
            assert not [path for path in (tmp_path / "store").rglob("*") if job in path.name]
            return set(store.redis.scan_iter())

        assert life() == life()

    def test_a_job_cancelled_in_its_queue_leaves_no_ticket(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        placed(store, job)
        assert [key for key in store.redis.scan_iter("rq:*") if job in key]
        api.jobs.CancelJob(pb.CancelJobRequest(id=job), timeout=LIMIT)
        assert not [key for key in store.redis.scan_iter("rq:*") if job in key]

    def test_a_queued_and_a_running_job_are_moved(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        placed(store, job)
        said = refusal(lambda: api.jobs.MoveJob(pb.MoveJobRequest(id=job), timeout=LIMIT))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        assert "No live host but gpu-a serves" in said.message
        model = (ServedModelRecord(TUFT_MODEL, 64),)
        store.hosts.put(HostRecord(name="gpu-0", models=model, backend_up=True), ttl=300)
        moved = api.jobs.MoveJob(pb.MoveJobRequest(id=job, host="gpu-0"), timeout=LIMIT).job
        assert (moved.host, moved.state) == ("gpu-0", pb.JOB_STATE_QUEUED)
        assert (store.tickets.waiting("gpu-0"), store.tickets.waiting("gpu-a")) == ([f"{job}-a1"], [])
        said = refusal(lambda: api.jobs.MoveJob(pb.MoveJobRequest(id=job, host="gpu-0"), timeout=LIMIT))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        attempt = running(store, job)
        assert api.jobs.MoveJob(pb.MoveJobRequest(id=job), timeout=LIMIT).job.state == pb.JOB_STATE_RUNNING
        assert store.jobs.renew(job, attempt).value == "preempt"
        released = store.jobs.release(job, attempt, "moved", "Moved.")
        assert (released.state, released.host) == (JobState.QUEUED, "")
        commit(store, job, running(store, job), 1)
        store.jobs.release(job, attempt + 1, "crash", "x")
        said = refusal(lambda: api.jobs.MoveJob(pb.MoveJobRequest(id=job), timeout=LIMIT))
        assert "so only host gpu-a can go on with it" in said.message

    def test_the_queue_is_listed_in_order_with_reasons(self, api: Api, store: Store) -> None:
        dataset = make_dataset(api).id
        first = make_job(api, dataset).job.id
        urgent = make_job(api, dataset, priority=3).job
        assert urgent.priority == 3
        found = api.jobs.ListQueue(pb.ListQueueRequest(), timeout=LIMIT)
        assert [(one.job, one.position, one.priority) for one in found.jobs] == [(urgent.id, 1, 3), (first, 2, 0)]
        assert {one.reason for one in found.jobs} == {"No worker runs on gpu-a."}
        assert found.waiting == 2
        store.redis.sadd("rq:workers:train.gpu-a", "w")
        placed(store, urgent.id)
        held, left = api.jobs.ListQueue(pb.ListQueueRequest(), timeout=LIMIT).jobs
        assert (held.job, held.position, held.host) == (urgent.id, 0, "gpu-a")
        assert (left.job, left.position, left.reason) == (first, 1, "Every worker is busy: gpu-a has 1.")
        said = refusal(lambda: make_job(api, dataset, priority=101))
        assert said.code is grpc.StatusCode.INVALID_ARGUMENT

    def test_the_queue_names_the_quota_the_host_that_is_gone_and_what_nobody_serves(
        self, api: Api, store: Store
    ) -> None:
        dataset = make_dataset(api).id

        def reasons() -> dict[str, tuple[int, str]]:
            found = api.jobs.ListQueue(pb.ListQueueRequest(), timeout=LIMIT).jobs
            return {one.job: (one.position, one.reason) for one in found}

        held, free, pinned = (make_job(api, dataset, **asked).job.id for asked in ({}, {}, {"host": "gpu-a"}))
        store.redis.sadd("rq:workers:train.gpu-a", "w")
        placed(store, held)
        store.pool.say_quota(1)
        assert reasons() == {
            held: (0, "A worker of host gpu-a takes it next."),
            free: (1, "Its owner has 1 jobs on hosts, which is the quota."),
            pinned: (2, "Its owner has 1 jobs on hosts, which is the quota."),
        }
        gone = store.hosts.get("gpu-a")
        assert gone is not None
        store.redis.delete("tl:run:host:gpu-a")
        assert reasons() == {
            held: (0, "It goes on at host gpu-a, which is silent."),
            free: (1, f"No live host serves {TUFT_MODEL} at rank 8."),
            pinned: (2, "It asks for host gpu-a, which is silent."),
        }
        store.hosts.put(replace(gone, models=()))
        assert reasons()[pinned] == (2, f"It asks for host gpu-a, which does not serve {TUFT_MODEL} at rank 8.")
        store.hosts.put(replace(gone, backend_up=False))
        assert reasons()[free] == (1, "TuFT does not answer on gpu-a.")
        assert reasons()[held] == (0, "It goes on at host gpu-a, where TuFT does not answer.")

    def test_a_full_queue_refuses_a_job_and_a_sweep(self, start_api: Start, redis_url: str, store: Store) -> None:
        api = start_api(redis_url, quota_queued=2)
        dataset = make_dataset(api).id
        first = make_job(api, dataset, request_id="first")
        cells = pb.CreateSweepRequest(
            base=pb.CreateJobRequest(model=MODEL, training_dataset=dataset, hyperparameters=Hyper(batch_size=4)),
            axes=[pb.SweepAxis(hyperparameter="lora_rank", values=[4, 8])],
        )
        said = refusal(lambda: api.jobs.CreateSweep(cells, timeout=LIMIT))
        assert said.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert said.message == "2 jobs beside the 1 in the queue are over the owner's quota of 2."
        assert store.sweeps.list().items == []
        make_job(api, dataset)
        said = refusal(lambda: make_job(api, dataset))
        assert (said.code, said.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_REACHED")
        assert said.message == "The owner has 2 jobs in the queue, which is the quota."
        again = make_job(api, dataset, request_id="first")
        assert (again.job.id, again.deduplicated) == (first.job.id, True)

    def test_a_failed_job_says_why_and_can_be_resumed(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        attempt = running(store, job)
        store.jobs.finish(
            job, attempt, JobState.FAILED, ErrorRecord("OUT_OF_MEMORY", "No room.", "max_length", "Less.")
        )
        failed = get(api, job)
        assert (failed.error.code, failed.error.param, failed.error.hint) == ("OUT_OF_MEMORY", "max_length", "Less.")
        assert failed.HasField("finish_time")
        assert api.jobs.ResumeJob(pb.ResumeJobRequest(id=job), timeout=LIMIT).job.state == pb.JOB_STATE_QUEUED


def begins_and_leaves(api: Api, job: str) -> bool:
    """Open a watch, see one update and leave; False: all slots were still taken."""
    watch = api.jobs.WatchJob(pb.WatchJobRequest(id=job), timeout=LIMIT)
    try:
        next(watch)
    except grpc.RpcError as error:
        refused = read_refusal(error).code
    else:
        watch.cancel()
        return True
    assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
    return False


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


@pytest.mark.usefixtures("gpu_host")
class TestReading:
    """Lists, steps, checkpoints, adapters."""

    def test_jobs_are_listed_newest_first_by_state_and_label(self, api: Api) -> None:
        dataset = make_dataset(api).id
        jobs = [make_job(api, dataset, metadata={"n": str(i % 2)}).job.id for i in range(5)]
        api.jobs.CancelJob(pb.CancelJobRequest(id=jobs[0]), timeout=LIMIT)

        def listed(**filters: object) -> list[str]:
            found, token = [], ""
            while True:
                page = api.jobs.ListJobs(
                    pb.ListJobsRequest(page_size=2, page_token=token, **filters),  # type: ignore[arg-type]
                    timeout=LIMIT,
                )
                found += [job.id for job in page.jobs]
                token = page.next_page_token
                if not token:
                    return found

        assert listed() == jobs[::-1]
        assert listed(states=[pb.JOB_STATE_CANCELLED]) == [jobs[0]]
        assert listed(metadata={"n": "0"}) == [jobs[4], jobs[2], jobs[0]]
        assert listed(metadata={"n": "0"}, states=[pb.JOB_STATE_QUEUED]) == [jobs[4], jobs[2]]
        said = refusal(lambda: listed(states=[0]))
        assert said.fields["states[0]"].startswith("is not set; choose one of JOB_STATE_VALIDATING,")

    def test_steps_come_in_pages_each_once_with_the_initial_evaluation_first(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        attempt = running(store, job)
        store.ledger.commit_step(
            job, StepRecord(0, attempt, time=time.time(), test_nll_sum=9.0, test_weight_sum=3.0, test_target_bytes=4)
        )
        for step in range(1, 8):
            commit(store, job, attempt, step)
        pages, token = [], ""
        while True:
            page = api.jobs.ListSteps(pb.ListStepsRequest(job=job, page_size=3, page_token=token), timeout=LIMIT)
            pages.append(page)
            token = page.next_page_token
            if not token:
                break
        assert [[step.step for step in page.steps] for page in pages] == [[1, 2, 3], [4, 5, 6], [7]]
        assert [page.HasField("initial") for page in pages] == [True, False, False]
        assert pages[0].initial.test_nll_sum == 9.0
        assert pages[0].steps[0].nll_sum == 5.0
        late = api.jobs.ListSteps(pb.ListStepsRequest(job=job, start_step=6), timeout=LIMIT)
        assert [step.step for step in late.steps] == [6, 7]

    def test_progress_shows_exact_means_and_an_estimated_finish(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api, 20).id).job.id
        attempt = running(store, job)
        commit(store, job, attempt, 1)
        commit(store, job, attempt, 2)
        later(store)
        commit(store, job, attempt, 3, nll_sum=20.0)
        before = time.time()
        shown = get(api, job).progress
        assert (shown.step, shown.planned_steps, shown.epoch) == (3, 5, 1)
        assert (shown.last_train_nll, shown.mean_train_nll) == (2.0, 1.0)
        assert (shown.tokens, shown.trained_tokens) == (300, 30)
        assert shown.tokens_per_second > 0
        asked = shown.estimated_finish.ToNanoseconds() / 1e9 - 200 / shown.tokens_per_second
        assert before - 0.001 <= asked <= time.time() + 0.001

    def test_checkpoints_are_listed_oldest_first(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        attempt = running(store, job)
        names = [checkpoint(store, job, attempt, 0)]
        commit(store, job, attempt, 1)
        names.append(checkpoint(store, job, attempt, 1))
        found = api.jobs.ListCheckpoints(pb.ListCheckpointsRequest(job=job), timeout=LIMIT).checkpoints
        assert [(item.id, item.step) for item in found] == [(names[0], 0), (names[1], 1)]

    def test_an_adapter_streams_file_after_file_with_its_hash(self, api: Api, store: Store, tmp_path: Path) -> None:
        job = finished_job(api, store, tmp_path)
        files: dict[str, bytes] = {}
        for part in api.jobs.DownloadAdapter(pb.DownloadAdapterRequest(job=job), timeout=LIMIT):
            assert len(part.data) <= 1024 * 1024
            files[part.file] = files.get(part.file, b"") + part.data
            size, sha256 = part.file_bytes, part.file_sha256
        assert list(files) == ["adapter_config.json", "adapter_model.safetensors"]
        assert len(files["adapter_model.safetensors"]) == size == 2 * 1024 * 1024
        assert hashlib.sha256(files["adapter_model.safetensors"]).hexdigest() == sha256
        assert get(api, job).adapter_sha256

    def test_of_a_kept_checkpoint_only_the_adapter_is_streamed(self, api: Api, store: Store, tmp_path: Path) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        attempt = running(store, job)
        name = checkpoint(store, job, attempt, 0)
        for part in ("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "optimizer/0.pt", "meta.json"):
            file = tmp_path / "saved" / part
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(part)
        asked = pb.DownloadAdapterRequest(job=job, checkpoint=name)
        said = refusal(lambda: list(api.jobs.DownloadAdapter(asked, timeout=LIMIT)))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        stored = store.objects.put_folder(job, name, tmp_path / "saved")
        store.ledger.checkpoint_stored(job, attempt, name, uri=stored.uri, sha256=stored.sha256, bytes=1)
        parts = list(api.jobs.DownloadAdapter(asked, timeout=LIMIT))
        assert [(part.file, part.data) for part in parts] == [
            ("adapter_config.json", b"adapter/adapter_config.json"),
            ("adapter_model.safetensors", b"adapter/adapter_model.safetensors"),
        ]

    def test_a_damaged_adapter_is_data_loss_and_never_passed_on_as_whole(
        self, api: Api, store: Store, tmp_path: Path
    ) -> None:
        job = finished_job(api, store, tmp_path)
        (file,) = (tmp_path / "store").rglob("adapter_model.safetensors")
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        said = refusal(lambda: list(api.jobs.DownloadAdapter(pb.DownloadAdapterRequest(job=job), timeout=LIMIT)))
        assert said.code is grpc.StatusCode.DATA_LOSS

    def test_an_adapter_that_is_not_there_yet_says_so(self, api: Api) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        said = refusal(lambda: list(api.jobs.DownloadAdapter(pb.DownloadAdapterRequest(job=job), timeout=LIMIT)))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        assert said.message == (
            f"Job {job!r} is QUEUED and has no adapter in the store yet; WatchJob shows when it is there."
        )

    def test_hosts_show_what_they_serve(self, api: Api) -> None:
        (host,) = api.jobs.ListHosts(pb.ListHostsRequest(), timeout=LIMIT).hosts
        assert (host.name, host.backend_up, host.queued_jobs) == ("gpu-a", True, 0)
        assert [(model.name, model.max_lora_rank) for model in host.models] == [(TUFT_MODEL, 64)]


@pytest.mark.usefixtures("gpu_host")
class TestWatchJob:
    """Everything in order, each once, however often the client comes back."""

    def test_twenty_reconnects_see_everything_once(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        attempt = running(store, job)
        seen: list[tuple[str, str]] = []
        position, step = "", 0
        for _ in range(20):
            watch = api.jobs.WatchJob(pb.WatchJobRequest(id=job, start_event_id=position), timeout=LIMIT)
            for _ in range(3):
                step += 1
                commit(store, job, attempt, step)
                update = next(watch)
                seen.append((update.event_id, update.WhichOneof("update")))
                position = update.event_id
            watch.cancel()
        store.jobs.finish(job, attempt, JobState.SUCCEEDED)
        rest = list(api.jobs.WatchJob(pb.WatchJobRequest(id=job, start_event_id=position), timeout=LIMIT))
        seen += [(update.event_id, update.WhichOneof("update")) for update in rest]
        whole = list(api.jobs.WatchJob(pb.WatchJobRequest(id=job), timeout=LIMIT))
        assert seen == [(update.event_id, update.WhichOneof("update")) for update in whole]
        assert [update.step.step for update in whole if update.HasField("step")] == list(range(1, 61))
        states = [update.job.state for update in whole if update.HasField("job")]
        assert states[-1] == pb.JOB_STATE_SUCCEEDED
        assert pb.JOB_STATE_RUNNING in states

    def test_a_watch_ends_after_the_terminal_state_and_frees_its_thread(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        watch = api.jobs.WatchJob(pb.WatchJobRequest(id=job), timeout=LIMIT)
        next(watch)
        store.jobs.cancel(job)
        assert [update.job.state for update in watch if update.HasField("job")][-1] == pb.JOB_STATE_CANCELLED

    def test_what_is_said_after_the_end_neither_keeps_a_watch_open_nor_is_lost(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        store.jobs.finish(job, running(store, job), JobState.SUCCEEDED)
        first = list(api.jobs.WatchJob(pb.WatchJobRequest(id=job), timeout=LIMIT))
        assert first[-1].job.state == pb.JOB_STATE_SUCCEEDED
        store.events.append(job, "info", "ADAPTER_RELEASED", "Freed 1 runs on the server.", 1)
        asked = pb.WatchJobRequest(id=job, start_event_id=first[-1].event_id)
        (late,) = api.jobs.WatchJob(asked, timeout=LIMIT)
        assert late.event.type == "ADAPTER_RELEASED"
        assert not list(api.jobs.WatchJob(pb.WatchJobRequest(id=job, start_event_id=late.event_id), timeout=LIMIT))

    def test_clients_that_leave_free_their_slots(self, start_api: Start, store: Store, redis_url: str) -> None:
        api = start_api(redis_url, threads=4)
        job = make_job(api, make_dataset(api).id).job.id
        for _ in range(6):  # with two slots, so those that left must have given theirs back
            wait_until(lambda: begins_and_leaves(api, job))
        wait_until(lambda: api.handled("server_stream", "FineTuningService", "WatchJob", "CANCELLED") == 6)

    def test_an_event_id_that_is_none_is_refused(self, api: Api) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        said = refusal(lambda: list(api.jobs.WatchJob(pb.WatchJobRequest(id=job, start_event_id="x"), timeout=LIMIT)))
        assert said.code is grpc.StatusCode.INVALID_ARGUMENT
        assert said.reason == "BAD_TOKEN"

    def test_events_that_expired_are_out_of_range(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        (name,) = [key for key in store.redis.scan_iter(f"*{job}*") if store.redis.type(key) == "stream"]
        store.redis.delete(name)
        said = refusal(lambda: list(api.jobs.WatchJob(pb.WatchJobRequest(id=job), timeout=LIMIT)))
        assert said.code is grpc.StatusCode.OUT_OF_RANGE

    def test_events_come_in_pages_without_steps(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        for number in range(5):
            store.events.append(job, "info", "TEST", f"number {number}", fields={"n": str(number)})
        found, token = [], ""
        while True:
            page = api.jobs.ListEvents(pb.ListEventsRequest(job=job, page_size=2, page_token=token), timeout=LIMIT)
            found += list(page.events)
            token = page.next_page_token
            if not token:
                break
        mine = [event for event in found if event.type == "TEST"]
        assert [event.fields["n"] for event in mine] == list("01234")
        assert len({event.id for event in found}) == len(found)


class TestOutage:
    """Redis goes away and comes back under a running server."""

    def test_calls_are_unavailable_within_seconds_and_work_again_afterwards(
        self, start_api: Start, redis_server: RedisServer
    ) -> None:
        api = start_api(redis_server.url)
        dataset = make_dataset(api)
        redis_server.kill()
        began = time.monotonic()
        said = refusal(lambda: make_job(api, dataset.id))
        assert time.monotonic() - began < 10
        assert said.code is grpc.StatusCode.UNAVAILABLE
        assert said.reason == "REDIS_UNAVAILABLE"
        assert "Redis can't be reached" in said.message
        redis_server.start()
        with connect_rq(redis_server.url, socket_timeout=5) as client:
            assert client.ping()
        assert refusal(lambda: make_job(api, dataset.id)).reason in ("NO_HOST", "NOT_FOUND")

    def test_a_redis_that_never_answers_is_unavailable_within_ten_seconds(self, start_api: Start) -> None:
        import socket

        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            api = start_api(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
            began = time.monotonic()
            said = refusal(lambda: make_job(api, "ds-x"))
            assert said.code is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - began < 10


@pytest.mark.usefixtures("gpu_host")
def test_diagnose_names_each_check_and_a_host_without_worker_is_not_waited_for_in_vain(api: Api, store: Store) -> None:
    checks = api.jobs.Diagnose(pb.DiagnoseRequest(), timeout=LIMIT).checks  # a ticket would be waited for for 50 s
    found = {check.name: check for check in checks}
    assert [found[name].outcome for name in ("models_loaded", "redis_policy", "redis_aof", "store_writable")] == [
        "ok"
    ] * 4
    assert found["redis_clock"].outcome == "ok"
    assert (found["host_heartbeat"].outcome, found["host_heartbeat"].host) == ("warning", "gpu-a")
    assert found["host_checks"].outcome == "warning"
    assert all(check.hint for check in checks if check.outcome != "ok")
    said = refusal(lambda: api.jobs.Diagnose(pb.DiagnoseRequest(host="gpu-z"), timeout=LIMIT))
    assert said.code is grpc.StatusCode.NOT_FOUND
    store.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        checks = api.jobs.Diagnose(pb.DiagnoseRequest(), timeout=LIMIT).checks
        (policy,) = [check for check in checks if check.name == "redis_policy"]
        assert (policy.outcome, policy.message) == ("failed", "maxmemory-policy is allkeys-lru.")
    finally:
        store.redis.config_set("maxmemory-policy", "noeviction")
    assert MODEL in found["models_loaded"].message
    assert options().model == MODEL
