"""What tests say to an API server, and what they read of its refusals. The fixtures are in api_fixtures."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from services.preprocess.api.metrics import ApiMetrics
from services.preprocess.models.registry import Registry
from services.store.pool.placing import Choice
from services.store.store import Store
from tests.support.small_tokenizers import byte_level
from turnloom.masks.model import MANIFEST, MANIFEST_VERSION, SPECIAL_TOKENS, TEMPLATE, TOKENIZER, Manifest
from turnloom.v1 import datasets_pb2, preprocess_pb2, training_pb2, types_pb2
from turnloom.v1.datasets_pb2_grpc import DatasetServiceStub
from turnloom.v1.preprocess_pb2_grpc import PreprocessServiceStub
from turnloom.v1.training_pb2_grpc import FineTuningServiceStub

MODEL = "small/chat"
TUFT_MODEL = "tuft/small"
NO_REDIS = "redis://127.0.0.1:1/0"  #: a port that nothing listens on
CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def write_model(folder: Path, template: str = CHATML, tokenizer: str = "") -> Path:
    """A prepared folder, without transformers."""
    folder.mkdir(parents=True)
    texts = {TOKENIZER: tokenizer or byte_level(), TEMPLATE: template, SPECIAL_TOKENS: '{"eos_token": "<|im_end|>"}'}
    sha = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    manifest = Manifest(
        MANIFEST_VERSION, "small", "small", "", sha[TOKENIZER], sha[TEMPLATE], sha[SPECIAL_TOKENS], "by hand"
    )
    for name, text in {**texts, MANIFEST: manifest.to_json()}.items():
        (folder / name).write_bytes(text.encode())
    return folder


@dataclass(frozen=True, slots=True)
class Api:
    """A running server and stubs that talk to it."""

    address: str
    channel: grpc.Channel
    preprocess: PreprocessServiceStub
    datasets: DatasetServiceStub
    jobs: FineTuningServiceStub
    metrics: ApiMetrics
    registry: Registry

    def sample(self, name: str, **labels: str) -> float:
        """A value of /metrics; 0 where it is not there yet."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def handled(self, kind: str, service: str, method: str, code: str) -> float:
        """How many calls of a method ended with a code."""
        labels = {"grpc_type": kind, "grpc_service": f"turnloom.v1.{service}", "grpc_method": method}
        return self.sample("grpc_server_handled_total", **labels, grpc_code=code)


Start = Callable[..., Api]


def chat(*turns: str, **fields: object) -> types_pb2.Conversation:
    """A conversation of alternating user and assistant texts."""
    messages = [
        types_pb2.Message(role="user" if index % 2 == 0 else "assistant", text=text) for index, text in enumerate(turns)
    ]
    return types_pb2.Conversation(messages=messages, **fields)  # type: ignore[arg-type]


def options(**fields: object) -> types_pb2.PreprocessOptions:
    base: dict[str, object] = {"model": MODEL, "train_on": types_pb2.TRAIN_ON_ALL_ASSISTANT_MESSAGES}
    return types_pb2.PreprocessOptions(**{**base, **fields})  # type: ignore[arg-type]


def dataset_stream(
    *chunks: list[types_pb2.Conversation], end: bool = True, **header: object
) -> Iterator[datasets_pb2.CreateDatasetRequest]:
    """The messages of a CreateDataset call, with or without the last one."""
    fields = {"options": options(), **header}
    yield datasets_pb2.CreateDatasetRequest(header=datasets_pb2.CreateDatasetHeader(**fields))  # type: ignore[arg-type]
    for chunk in chunks:
        yield datasets_pb2.CreateDatasetRequest(chunk=datasets_pb2.DatasetChunk(conversations=chunk))
    if end:
        sent = sum(len(chunk) for chunk in chunks)
        yield datasets_pb2.CreateDatasetRequest(end=datasets_pb2.DatasetEnd(conversations=sent))


def make_dataset(api: Api, count: int = 10, **header: object) -> datasets_pb2.Dataset:
    """A dataset of small chats."""
    chats = [chat(f"question {index}", f"answer number {index}") for index in range(count)]
    return api.datasets.CreateDataset(dataset_stream(chats, **header), timeout=30).dataset


def make_job(api: Api, dataset: str, **fields: object) -> training_pb2.CreateJobResponse:
    """CreateJob with a small hyperparameter set unless told otherwise."""
    base: dict[str, object] = {
        "model": MODEL,
        "training_dataset": dataset,
        "hyperparameters": training_pb2.Hyperparameters(lora_rank=8, batch_size=4),
    }
    request = training_pb2.CreateJobRequest(**{**base, **fields})  # type: ignore[arg-type]
    return api.jobs.CreateJob(request, timeout=30)


def placed(store: Store, job: str, host: str = "gpu-a") -> None:
    """Give a waiting job to a host, as the supervisor does once a worker is free."""
    record = store.jobs.get(job)
    assert store.pool.assign([Choice(job, record.attempt, host)]) == [job]
    store.tickets.enqueue(store.jobs.get(job))


@dataclass(frozen=True, slots=True)
class Refused:
    """What a client sees of a refusal."""

    code: grpc.StatusCode
    message: str
    fields: dict[str, str]
    reason: str
    metadata: dict[str, str]


def refusal(call: Callable[[], object]) -> Refused:
    """Run a call that must be refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return read_refusal(caught.value)


def read_refusal(error: grpc.RpcError) -> Refused:
    assert isinstance(error, grpc.Call)
    status = rpc_status.from_call(error)
    bad, info = BadRequest(), ErrorInfo()
    if status is not None:
        assert status.message == error.details()
        for item in status.details:
            item.Unpack(bad) or item.Unpack(info)
    fields = {item.field: item.description for item in bad.field_violations}
    return Refused(error.code(), error.details() or "", fields, info.reason, dict(info.metadata))


def first_request(options_: types_pb2.PreprocessOptions) -> preprocess_pb2.StreamPreprocessRequest:
    return preprocess_pb2.StreamPreprocessRequest(options=options_)


def wait_until(condition: Callable[[], bool], deadline: float = 120.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
