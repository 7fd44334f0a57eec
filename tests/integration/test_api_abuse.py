"""One caller must not stop the others: work ends with its caller; no token, template or message takes everything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from hypothesis import given
from hypothesis import strategies as st

from services.preprocess.api import preprocess_service
from services.preprocess.api.runner import SLICE_CHARACTERS, size_of, slices
from services.preprocess.api.work import ByteBudget, WorkClock
from services.preprocess.domain.refusals import ClientLeft, WorkExceeded, WorkFull
from tests.integration.test_api_security import People, exhausted, request, retry_seconds
from tests.support.api_calls import Api, Start, chat, options, refusal
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.model import Model
from turnloom.masks.sandbox.pool import Limits, Sandbox
from turnloom.models_file import ModelEntry
from turnloom.v1 import preprocess_pb2 as pb

LIMIT = 60  #: seconds that any call here may take
LOOPING = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path / "tokens.json")


@pytest.fixture
def looping(start_api: Start, loaded_model: Model) -> Iterator[Api]:
    """A server whose sandbox stops templates after half a second."""
    sandbox = Sandbox(Limits(seconds=0.5))

    def load(_entry: ModelEntry, _cache: Path) -> Model:
        return replace(loaded_model, sandbox=sandbox)

    api = start_api(load=load)
    assert api.registry.wait(LIMIT)
    yield api
    sandbox.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in another thread."""
    for _ in range(LIMIT * 20):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it did not happen in time")


def test_a_template_that_was_stopped_is_not_tried_for_every_conversation_of_the_batch(looping: Api) -> None:
    asked = pb.PreprocessRequest(
        options=options(chat_template=LOOPING), conversations=[chat("q", "a")] * 64, skip_bad=True
    )
    answer = looping.preprocess.Preprocess(asked, timeout=LIMIT)
    assert len(answer.issues) == 64
    assert "took longer than 0.5 s" in answer.issues[0].message
    assert "on an earlier conversation; it is tried again in" in answer.issues[63].message


def test_work_ends_with_its_caller(start_api: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    api = start_api()
    begun, seen = threading.Event(), []
    real = preprocess_service.read_each

    def slow(sent: object) -> Iterator[object]:
        for item in real(sent):  # type: ignore[arg-type]
            begun.set()
            seen.append(item)
            threading.Event().wait(0.01)
            yield item

    monkeypatch.setattr(preprocess_service, "read_each", slow)
    monkeypatch.setattr("services.preprocess.api.runner.SLICE_CONVERSATIONS", 4)
    call = api.preprocess.Preprocess.future(request(512), timeout=LIMIT)
    assert begun.wait(LIMIT)
    call.cancel()
    until(lambda: api.handled("unary", "PreprocessService", "Preprocess", "CANCELLED") == 1)
    assert len(seen) < 512


def test_health_and_records_answer_while_every_thread_works(start_api: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    api = start_api(threads=4, max_calls=64)
    go_on, real = threading.Event(), preprocess_service.token_batch

    def wait(*arguments: object) -> object:
        assert go_on.wait(LIMIT)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(preprocess_service, "token_batch", wait)
    calls = [api.preprocess.Preprocess.future(request(), timeout=LIMIT) for _ in range(32)]
    name = "turnloom.v1.PreprocessService"
    answer = HealthStub(api.channel).Check(HealthCheckRequest(service=name), timeout=LIMIT)
    assert answer.status == HealthCheckResponse.SERVING
    assert api.preprocess.ListModels(pb.ListModelsRequest(), timeout=LIMIT).models
    info = api.preprocess.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
    assert (info.max_bytes_in_work, info.max_conversation_bytes) == (128 << 20, 4 << 20)
    go_on.set()
    assert all(call.code() is grpc.StatusCode.OK for call in calls)


def test_a_token_takes_no_more_than_its_share_of_calls(
    start_api: Start, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = start_api(threads=8, max_calls=64, tokens=people.path)
    go_on, real = threading.Event(), preprocess_service.token_batch

    def wait(*arguments: object) -> object:
        assert go_on.wait(LIMIT)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(preprocess_service, "token_batch", wait)
    ann, bob = people.metadata("ann"), people.metadata("bob")
    calls = [api.preprocess.Preprocess.future(request(), metadata=ann, timeout=LIMIT) for _ in range(16)]
    refused = threading.Semaphore(0)
    for call in calls:
        call.add_done_callback(lambda _: refused.release())
    for _ in range(10):  # six are her share of eight threads
        assert refused.acquire(timeout=LIMIT)
    other = api.preprocess.Preprocess.future(request(), metadata=bob, timeout=LIMIT)
    go_on.set()
    assert other.result(LIMIT).batch.row_lengths
    late = [call for call in calls if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert len(late) == 10
    assert {call.details() for call in late} == {
        "Token 'ann' has 6 calls already, its share of this server; wait for one to end."
    }
    assert {retry_seconds(call) for call in late} == {1}
    api.preprocess.Preprocess(request(), metadata=ann, timeout=LIMIT)


def test_a_token_takes_no_more_than_its_share_of_streams(start_api: Start, people: People) -> None:
    api = start_api(threads=8, tokens=people.path)
    ann, bob = people.metadata("ann"), people.metadata("bob")
    hold = threading.Event()

    def idle() -> Iterator[pb.StreamPreprocessRequest]:
        hold.wait(LIMIT)
        yield from ()

    streams = [api.preprocess.StreamPreprocess(idle(), metadata=ann, timeout=LIMIT) for _ in range(3)]
    started = {"grpc_type": "bidi_stream", "grpc_service": "turnloom.v1.PreprocessService"}
    started["grpc_method"] = "StreamPreprocess"
    until(lambda: api.sample("grpc_server_started_total", **started) == 3)
    fourth = refusal(lambda: next(api.preprocess.StreamPreprocess(idle(), metadata=ann, timeout=LIMIT)))
    assert fourth.message == (
        "Token 'ann' has 3 streaming calls already, its share of this server; wait for one to end."
    )
    other = api.preprocess.StreamPreprocess(iter(()), metadata=bob, timeout=LIMIT)
    assert refusal(lambda: next(other)).code is grpc.StatusCode.INVALID_ARGUMENT  # served: it has no header
    hold.set()
    for stream in streams:
        stream.cancel()


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_bytes_that_are_no_message_are_refused_and_counted(api: Api, kind: str) -> None:
    if kind == "unary":
        call = api.channel.unary_unary("/turnloom.v1.PreprocessService/Preprocess")
        said = refusal(lambda: call(b"\xff\xff\xff", timeout=LIMIT))
        counted = ("unary", "PreprocessService", "Preprocess", "INVALID_ARGUMENT")
    else:
        stream = api.channel.stream_unary("/turnloom.v1.DatasetService/CreateDataset")
        said = refusal(lambda: stream(iter([b"\xff\xff\xff"]), timeout=LIMIT))
        counted = ("client_stream", "DatasetService", "CreateDataset", "INVALID_ARGUMENT")
    assert (said.code, said.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNDECODABLE")
    assert "can't be decoded; use stubs that are generated from this server's proto files" in said.message
    assert api.handled(*counted) == 1
    api.preprocess.ListModels(pb.ListModelsRequest(), timeout=LIMIT)


def test_messages_that_find_no_room_are_refused_with_a_time_to_wait(
    start_api: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = start_api(work_bytes=1000)
    monkeypatch.setattr("services.preprocess.api.work.PATIENCE", 0.05)
    go_on, begun, real = threading.Event(), threading.Event(), preprocess_service.token_batch

    def wait(*arguments: object) -> object:
        begun.set()
        assert go_on.wait(LIMIT)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(preprocess_service, "token_batch", wait)
    first = api.preprocess.Preprocess.future(request(30), timeout=LIMIT)  # more than the budget, but alone
    assert begun.wait(LIMIT)
    assert api.sample("turnloom_api_bytes_in_work") == request(30).ByteSize()
    assert exhausted(lambda: api.preprocess.Preprocess(request(30), timeout=LIMIT)) == ("WORK_FULL", 2)
    go_on.set()
    assert first.result(LIMIT).batch.row_lengths
    until(lambda: api.sample("turnloom_api_bytes_in_work") == 0)
    api.preprocess.Preprocess(request(30), timeout=LIMIT)


@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=20), most=st.integers(1, 300))
def test_a_budget_never_lets_in_more_than_it_has_unless_one_is_alone(sizes: list[int], most: int) -> None:
    seen: list[int] = []
    budget = ByteBudget(most, seen.append)
    held = []
    for size in sizes:
        grant = budget.hold(size, patience=0)
        try:
            grant.__enter__()
        except WorkFull:
            assert held
            assert sum(one for one, _ in held) + size > most
            continue
        held.append((size, grant))
        assert len(held) == 1 or sum(one for one, _ in held) <= most
    for _, grant in held:
        grant.__exit__(None, None, None)
    assert seen[-1] == 0


def test_a_clock_ends_work_that_takes_too_long_or_that_nobody_waits_for() -> None:
    def left() -> None:
        raise ClientLeft

    WorkClock(60, lambda: None).check()
    with pytest.raises(ClientLeft):
        WorkClock(60, left).check()
    with pytest.raises(WorkExceeded, match=r"worked on for more than -1 s and was given up"):
        WorkClock(-1, lambda: None).check()


@given(lengths=st.lists(st.integers(0, 2000), max_size=40), most=st.integers(1, 8), characters=st.integers(1, 4000))
def test_slices_keep_order_and_bounds(lengths: list[int], most: int, characters: int) -> None:
    batch = [Conversation([{"role": "user", "content": "x" * length}]) for length in lengths]
    parts = list(slices(batch, most, characters))
    assert [one for part in parts for one in part] == batch
    for part in parts:
        assert 1 <= len(part) <= most
        assert len(part) == 1 or sum(size_of(one) for one in part if isinstance(one, Conversation)) <= characters
    assert SLICE_CHARACTERS > 0
