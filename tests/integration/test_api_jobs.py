"""FineTuningService: jobs are checked before they are queued; a lost Redis is said at once."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from services.store.connection import connect_rq
from services.store.errors import RedisUnavailable
from services.store.ids import new_id
from services.store.jobs import Jobs
from services.store.records import GpuRecord, HostRecord, JobState, ServedModelRecord
from services.store.store import Store
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
    refusal,
)
from tests.support.job_steps import LIMIT, checkpoint, commit, get, later, running
from turnloom.v1 import training_pb2 as pb

if TYPE_CHECKING:  # pytest rewrites the module when it loads it as a plugin, so it may not be imported before
    from tests.support.redis_fixtures import RedisServer

Hyper = pb.Hyperparameters


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
        long = [chat("long " * 60, "reply")]
        test = api.datasets.CreateDataset(dataset_stream(long), timeout=LIMIT).dataset.id
        said = refusal(lambda: make_job(api, dataset.id, test_dataset=test, hyperparameters=Hyper(max_length=30)))
        assert said.fields == {
            "hyperparameters.max_length": f"is 30, which leaves no row of {test!r} a trained token; give a larger one."
        }

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
@pytest.mark.parametrize("name", ["job-none", "x" * 3000])
def test_a_job_that_does_not_exist_is_not_found_and_its_name_cut(api: Api, method: str, name: str) -> None:
    request = getattr(pb, f"{method}Request")(id=name)

    def call() -> object:
        answer = getattr(api.jobs, method)(request, timeout=LIMIT)
        return list(answer) if method == "WatchJob" else answer

    said = refusal(call)
    quoted = name if len(name) < 128 else f"{'x' * 128}… (3000 characters)"
    assert (said.code, said.message) == (grpc.StatusCode.NOT_FOUND, f"There is no job {quoted}.")


@pytest.mark.parametrize("method", ["ListEvents", "ListSteps", "ListCheckpoints", "DownloadAdapter"])
def test_lists_of_a_job_that_does_not_exist_are_not_found(api: Api, method: str) -> None:
    request = getattr(pb, f"{method}Request")(job="job-none")

    def call() -> object:
        answer = getattr(api.jobs, method)(request, timeout=LIMIT)
        return list(answer) if method == "DownloadAdapter" else answer

    assert refusal(call).code is grpc.StatusCode.NOT_FOUND


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
