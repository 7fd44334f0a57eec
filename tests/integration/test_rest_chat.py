"""Completions over HTTP at a real API, Redis and RQ queue, where the test is the worker that samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import openai
import pytest
from openai import OpenAI
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from services.rest.names import checkpoint_name, model_name
from services.rest.settings import RestSettings
from services.store.queueing.queues import queue_name
from services.store.records import HostRecord
from services.store.store import Store
from services.trainer import sample as trainer
from tests.support.api_calls import MODEL, Api, make_dataset, make_job
from tests.support.rest_server import openai_client, serving, valid, wait
from tests.support.sample_runs import ended, man, waiting
from turnloom.client import TurnloomClient

T = TypeVar("T")
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How are you?"}]


@dataclass
class Model:
    """A model whose TuFT server says what the test wants."""

    api: Api
    store: Store
    client: OpenAI
    name: str  #: of the fine-tuned model
    checkpoint: str  #: its checkpoint 0
    job: str
    said: str = "very well, thank you"
    finish: str = "stop"
    orders: list[dict[str, object]] = field(default_factory=list)

    def run(self, **order: object) -> object:
        """The worker's function."""
        self.orders.append(order)
        vocabulary = self.api.registry.get(MODEL).vocabulary
        ids = vocabulary.encode([self.said], [False]).ids.tolist()
        stop = [vocabulary.table.by_content["<|im_end|>"].id] if self.finish == "stop" else []
        return {"token_ids": [*ids, *stop], "finish_reason": self.finish}

    def answering(self, call: Callable[[], T], times: int = 1) -> T:
        """What a call returns while the worker answers `times` prompts."""
        with ThreadPoolExecutor(1) as thread:
            man(self.store)
            asked = thread.submit(call)
            wait(lambda: bool(waiting(self.store)) or asked.done(), "a prompt is queued")
            if not asked.done():
                queue = Queue(queue_name("gpu-a"), connection=self.store.rq, serializer=JSONSerializer)
                worker = SimpleWorker([queue], connection=self.store.rq, serializer=JSONSerializer)
                worker.work(max_jobs=times)
            return asked.result(60)


@pytest.fixture
def model(
    api: Api, store: Store, gpu_host: HostRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Model]:
    record = ended(store, make_job(api, make_dataset(api).id).job.id)
    with TurnloomClient(api.address) as direct:
        job = direct.jobs.retrieve(record.id)
    settings = RestSettings(api=api.address, files_url=str(tmp_path / "files"))
    with serving(settings) as url, openai_client(url) as client:
        made = Model(api, store, client, model_name(job), checkpoint_name(job, 0), job.id)
        monkeypatch.setattr(trainer, "run", made.run)
        yield made


def test_a_conversation_is_answered_with_what_was_asked_for(model: Model) -> None:
    answer = valid(
        model.answering(
            lambda: model.client.chat.completions.create(
                model=model.name, messages=ASK, max_completion_tokens=9, temperature=0.5, top_p=0.9, seed=-1
            )
        )
    )
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", model.said, "stop")
    assert answer.model == model.name
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    order = model.orders[0]
    assert (order["max_tokens"], order["temperature"], order["top_p"], order["seed"]) == (9, 0.5, 0.9, 2**32 - 1)
    assert answer.usage.prompt_tokens == len(order["prompt"])


def test_a_stream_ends_with_its_reason_and_the_usage_that_was_asked_for(model: Model) -> None:
    model.finish = "length"

    def streamed() -> list[object]:
        options = {"include_usage": True}
        create = model.client.chat.completions.create
        return list(create(model=model.name, messages=ASK, stream=True, stream_options=options))

    chunks = [valid(chunk) for chunk in model.answering(streamed)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == model.said
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices] == [None, None, "length"]
    assert chunks[-1].usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_text_that_stops_the_reply_is_not_part_of_it(model: Model) -> None:
    model.finish = "length"
    create = model.client.chat.completions.create
    answer = model.answering(lambda: create(model=model.checkpoint, messages=ASK, stop=["thank", ","]))
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("very well", "stop")


def test_older_completions_answer_each_prompt_as_a_users_message(model: Model) -> None:
    create = model.client.completions.create
    answer = valid(model.answering(lambda: create(model=model.name, prompt=["one?", "two?"]), times=2))
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, model.said), (1, model.said)]
    chunks = model.answering(lambda: list(create(model=model.name, prompt="one?", stream=True)))
    assert [valid(chunk).choices[0].text for chunk in chunks] == [model.said]


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"model": MODEL}, "model", f"'{MODEL}' is a base model; name a fine-tuned one"),
        ({"messages": []}, "messages", "messages: is empty"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0].role", "messages[0].role: is 'assistant'"),
        ({"messages": [{"role": "user"}, {"content": "x"}]}, "messages[1]", "has no role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
            "messages[0].content[0]",
            "image_url",
        ),
        ({"temperature": 11}, "temperature", "give a number from 0 to 10"),
        ({"max_tokens": 5000}, "max_tokens", "give 1 to 4096"),
        ({"temperature": "hot"}, "temperature", 'is "hot"; send a number.'),
        ({"stop": [1]}, "stop", "is [1]; send a text or a list of texts."),
        ({"n": 2}, "n", "is 2; send 1, or leave it out"),
        ({"logprobs": True}, "logprobs", "is true; send false, or leave it out"),
        ({"response_format": {"type": "json_object"}}, "response_format", "send text"),
        ({"extra_body": {"what": 1}}, "what", "is no field of this request; leave it out"),
        ({"logit_bias": {"7": 1}}, "logit_bias", "is not possible here; leave it out"),
        ({"tool_choice": "x" * 50}, "tool_choice", f"is \"{'x' * 39}...; send 'auto' or 'none'"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_field(
    model: Model, fields: dict, param: str, sentence: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        model.client.chat.completions.create(**{"model": model.name, "messages": ASK, **fields})
    assert caught.value.status_code == 400
    assert caught.value.param == param
    assert sentence in caught.value.message


def test_a_model_that_is_not_there_is_said_and_a_base_model_is_not_deleted(model: Model) -> None:
    with pytest.raises(openai.NotFoundError, match="'ft:x' does not exist; /v1/models lists those that do"):
        model.client.chat.completions.create(model="ft:x", messages=ASK)
    with pytest.raises(openai.NotFoundError, match="'gpt' does not exist"):
        model.client.chat.completions.create(model="gpt", messages=ASK)
    with pytest.raises(openai.BadRequestError, match="is a base model"):
        model.client.models.delete(MODEL)


def test_a_host_without_a_worker_is_said(model: Model) -> None:
    with pytest.raises(openai.BadRequestError, match="No worker runs on host gpu-a"):
        model.client.chat.completions.create(model=model.name, messages=ASK)
