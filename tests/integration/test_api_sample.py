"""Sample at a real API and Redis where no worker answers, or the test is it: bounds, states, hosts, deadlines."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from services.preprocess.api import training_service
from services.store.connection import redis_time
from services.store.queueing.queues import queue_name
from services.store.records import HostRecord, JobRecord
from services.store.store import Store
from services.trainer import sample as trainer
from tests.support.api_calls import CHATML, MODEL, Api, Start, chat, make_dataset, make_job, placed, refusal, wait_until
from tests.support.rq_workers import sign_in
from tests.support.sample_runs import LIMIT, Played, ended, man, waiting
from tests.support.small_tokenizers import byte_level
from turnloom.masks.model import build_model
from turnloom.models_file import ModelEntry
from turnloom.v1 import datasets_pb2 as ds
from turnloom.v1 import training_pb2 as tr
from turnloom.v1 import types_pb2 as ty

WORD = "Xylophonbauerin"
REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML


@pytest.fixture
def job(api: Api, store: Store, gpu_host: HostRecord) -> JobRecord:
    """One that failed after checkpoint 0."""
    return ended(store, make_job(api, make_dataset(api).id).job.id)


def sample(api: Api, job: str, timeout: float = LIMIT, **fields: object) -> tr.SampleResponse:
    asked = {"conversation": chat(WORD), **fields}
    return api.jobs.Sample(tr.SampleRequest(job=job, **asked), timeout=timeout)  # type: ignore[arg-type]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API gives a prompt up after 2 s, of the LIMIT that its caller gives; the rest is for its answer."""
    monkeypatch.setattr(training_service, "ANSWER_SECONDS", LIMIT - 2.0)


@pytest.fixture
def played(api: Api, store: Store, monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played(api, store)
    monkeypatch.setattr(trainer, "run", played.run)
    return played


def test_every_wrong_field_is_named(api: Api, job: JobRecord) -> None:
    refused = refusal(
        lambda: sample(api, job.id, max_tokens=4097, temperature=-0.5, top_p=0.0, conversation=chat("hi", "yes"))
    )
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == {
        "max_tokens": "is 4097; give 1 to 4096.",
        "temperature": "is -0.5; give a number from 0 to 10.",
        "top_p": "is 0; give a number above 0 and at most 1.",
        "conversation.messages[1].role": "is 'assistant'; end with the message that is to be answered.",
    }
    for temperature in (float("nan"), float("inf"), 10.5):
        assert "temperature" in refusal(lambda value=temperature: sample(api, job.id, temperature=value)).fields
    empty = refusal(lambda: sample(api, job.id, conversation=ty.Conversation()))
    assert empty.fields == {
        "conversation.messages": "is empty; give at least the message that is to be answered.",
    }
    bad = ty.Conversation(messages=[ty.Message(role="user", text="x", extra_json="[")])
    assert list(refusal(lambda: sample(api, job.id, conversation=bad)).fields) == [
        "conversation.messages[0].extra_json"
    ]


def test_an_unknown_job_or_checkpoint_is_not_found(api: Api, job: JobRecord) -> None:
    assert refusal(lambda: sample(api, "job-none")).code is grpc.StatusCode.NOT_FOUND
    refused = refusal(lambda: sample(api, job.id, checkpoint="nothing"))
    assert (refused.code, refused.message) == (grpc.StatusCode.NOT_FOUND, f"Job {job.id} has no checkpoint nothing.")


def test_a_job_without_a_checkpoint_says_that_it_has_none_yet(api: Api, gpu_host: HostRecord) -> None:
    queued = make_job(api, make_dataset(api).id).job.id
    refused = refusal(lambda: sample(api, queued))
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.message == (
        f"Job '{queued}' is QUEUED and has no checkpoint yet; WatchJob (`turnloom watch`) shows when its first one is "
        "saved."
    )


def test_hosts_that_are_gone_without_workers_or_without_tuft_are_told_apart(
    api: Api, store: Store, job: JobRecord, gpu_host: HostRecord
) -> None:
    unmanned = refusal(lambda: sample(api, job.id))
    assert (unmanned.code, unmanned.message) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "No worker runs on host gpu-a; start python -m services.trainer there.",
    )
    man(store)
    store.hosts.put(replace(gpu_host, backend_up=False), ttl=300)
    down = refusal(lambda: sample(api, job.id))
    assert (down.code, down.message) == (
        grpc.StatusCode.UNAVAILABLE,
        "Host 'gpu-a' gave no reply: its TuFT server does not answer. See that server's log.",
    )
    store.redis.delete("tl:run:host:gpu-a")
    assert store.hosts.list() == []
    gone = refusal(lambda: sample(api, job.id))
    assert (gone.code, gone.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_HOST")
    assert gone.message.startswith("No live host serves model tuft/small, so nobody can answer")


def test_a_host_whose_server_trains_only_is_known_before_any_worker_is_asked(
    api: Api, store: Store, job: JobRecord, gpu_host: HostRecord
) -> None:
    man(store)
    trains_only = replace(gpu_host, models=(replace(gpu_host.models[0], samples=False),))
    store.hosts.put(trains_only, ttl=300)
    refused = refusal(lambda: sample(api, job.id))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SAMPLING_DISABLED")
    assert waiting(store) == []


@pytest.mark.usefixtures("impatient")
def test_another_host_of_the_model_is_asked_while_the_jobs_own_is_unheard_of(
    api: Api, store: Store, job: JobRecord, gpu_host: HostRecord
) -> None:
    store.redis.delete("tl:run:host:gpu-a")
    store.hosts.put(replace(gpu_host, name="gpu-b"), ttl=300)
    sign_in(store, queue_name("gpu-b"))
    refused = refusal(lambda: sample(api, job.id))
    assert refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "no worker of host gpu-b answered" in refused.message.lower()


@pytest.mark.usefixtures("impatient")
def test_a_prompt_that_no_worker_takes_is_withdrawn_at_the_deadline(api: Api, store: Store, job: JobRecord) -> None:
    man(store)
    refused = refusal(lambda: sample(api, job.id))
    assert refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert re.fullmatch(
        r"No worker of host gpu-a answered within \d s, and none will answer this later; "
        r"its workers train or are gone \(`turnloom hosts`\)\.",
        refused.message,
    )
    assert waiting(store) == []
    assert not store.rq.keys("*call-*")


def test_a_prompt_whose_caller_leaves_is_withdrawn(api: Api, store: Store, job: JobRecord) -> None:
    man(store)
    asked = api.jobs.Sample.future(tr.SampleRequest(job=job.id, conversation=chat(WORD)), timeout=LIMIT)
    wait_until(lambda: bool(waiting(store)))
    asked.cancel()
    wait_until(lambda: not waiting(store) and not store.rq.keys("*call-*"))
    wait_until(lambda: api.handled("unary", "FineTuningService", "Sample", "CANCELLED") == 1)


def test_a_ticket_expires_by_itself_should_the_api_die(api: Api, store: Store, job: JobRecord) -> None:
    man(store)
    asked = api.jobs.Sample.future(tr.SampleRequest(job=job.id, conversation=chat(WORD)), timeout=LIMIT)
    wait_until(lambda: bool(waiting(store)))
    (ticket,) = waiting(store)
    assert 0 < store.rq.ttl(f"rq:job:{ticket}") <= LIMIT + 10
    kept = RqJob.fetch(ticket, connection=store.rq, serializer=JSONSerializer)
    assert kept.func_name == "services.trainer.sample.run"
    assert (kept.result_ttl, kept.failure_ttl) == (10, 10)
    assert 0 < kept.kwargs["until"] - redis_time(store.redis) <= LIMIT
    asked.cancel()


def test_a_prompt_goes_before_jobs_that_wait(api: Api, store: Store, job: JobRecord) -> None:
    man(store)
    waits = make_job(api, make_dataset(api).id).job.id
    placed(store, waits)
    assert len(waiting(store)) == 1
    asked = api.jobs.Sample.future(tr.SampleRequest(job=job.id, conversation=chat(WORD)), timeout=LIMIT)
    wait_until(lambda: len(waiting(store)) == 2)
    assert waiting(store)[1].startswith(waits)
    asked.cancel()


def test_what_the_worker_is_given_are_ids_and_what_it_gives_is_text(job: JobRecord, played: Played) -> None:
    model = played.api.registry.get(MODEL).vocabulary
    stop = model.table.by_content["<|im_end|>"].id
    answer = {"token_ids": [*model.encode(["very well"], [False]).ids.tolist(), stop], "finish_reason": "stop"}
    reply = played.sample(job.id, chat(WORD), answer, seed=7)
    assert (reply.text, reply.finish_reason, reply.checkpoint) == ("very well", "stop", f"{job.id}-a1-s0")
    (order,) = played.orders
    assert set(order) == {"path", "model", "prompt", "stop", "max_tokens", "temperature", "top_p", "seed", "until"}
    assert (order["path"], order["stop"], order["max_tokens"]) == ("tinker://run/weights/x", [stop], 256)
    assert (order["temperature"], order["top_p"], order["seed"]) == (1.0, 1.0, 7)
    assert WORD not in str(order)
    assert not played.store.rq.keys("*call-*")


@pytest.mark.parametrize(
    ("answer", "code", "sentence"),
    [
        (
            {"code": "CHECKPOINT_LOST", "message": "x", "hint": "y"},
            grpc.StatusCode.FAILED_PRECONDITION,
            "is no longer on the TuFT server of host 'gpu-a'; sample another one; ListCheckpoints",
        ),
        (
            {"code": "KEY_REJECTED", "message": "it said 403", "hint": "Set the key."},
            grpc.StatusCode.UNAVAILABLE,
            "Host 'gpu-a' gave no reply: it said 403. Set the key.",
        ),
        (
            {"code": "TOO_LATE", "message": "the worker has to leave before the sample is done", "hint": ""},
            grpc.StatusCode.UNAVAILABLE,
            "Host 'gpu-a' gave no reply: the worker has to leave before the sample is done.",
        ),
    ],
)
def test_what_goes_wrong_at_the_host_is_said_in_its_words(
    job: JobRecord, played: Played, answer: dict[str, str], code: grpc.StatusCode, sentence: str
) -> None:
    refused = refusal(lambda: played.sample(job.id, chat(WORD), answer))
    assert refused.code is code
    assert sentence in refused.message


def test_a_dataset_that_is_gone_and_a_model_that_has_changed_are_told(
    api: Api, store: Store, job: JobRecord, start_api: Start, redis_url: str
) -> None:
    man(store)
    changed = build_model(MODEL, byte_level(), REFUSING, {"eos_token": "<|im_end|>"})
    other = start_api(redis_url, load=lambda _entry, _cache: changed)
    assert other.registry.wait(LIMIT)
    dataset = job.spec.training_dataset
    refused = refusal(lambda: sample(other, job.id))
    assert (refused.code, refused.message) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        f"Model 'small/chat' has another chat template now than when dataset '{dataset}' was made, so the prompt would "
        "not be what the job was trained on; serve the former one, or train again.",
    )
    api.datasets.DeleteDataset(ds.DeleteDatasetRequest(id=dataset), timeout=LIMIT)
    refused = refusal(lambda: sample(api, job.id))
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (
        f"Dataset '{dataset}', whose options say how job '{job.id}' reads conversations, was deleted" in refused.message
    )


def test_a_template_that_refuses_the_conversation_is_a_field_error(
    start_api: Start, store: Store, redis_url: str, gpu_host: HostRecord
) -> None:
    refusing = build_model(MODEL, byte_level(), REFUSING, {"eos_token": "<|im_end|>"})

    def load(_entry: ModelEntry, _cache: Path) -> object:
        return refusing

    api = start_api(redis_url, load=load)
    assert api.registry.wait(LIMIT)
    trained = ended(store, make_job(api, make_dataset(api).id).job.id)
    asked = ty.Conversation(messages=[ty.Message(role="system", text="x"), ty.Message(role="user", text="hi")])
    refused = refusal(lambda: sample(api, trained.id, conversation=asked))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    said = "the chat template refuses this conversation: no system here"
    assert refused.fields == {"conversation.messages[0]": said}
