"""The edge to gRPC against a small server of its own, for answers that no healthy server gives."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from tests.support import certificates
from turnloom import errors
from turnloom.client import TurnloomClient
from turnloom.transport.calls import CLASSES, Tls
from turnloom.v1 import datasets_pb2, datasets_pb2_grpc, preprocess_pb2, preprocess_pb2_grpc
from turnloom.wire.conversations import from_json

CONVERSATION = from_json({"messages": [{"role": "user", "content": "hi"}]})


class Preprocess(preprocess_pb2_grpc.PreprocessServiceServicer):
    """Answers GetServerInfo as the test says."""

    def __init__(self) -> None:
        self.behaviour: Callable[[grpc.ServicerContext], None] = lambda context: None
        self.calls = 0

    def GetServerInfo(self, request, context):  # noqa: N802
        self.calls += 1
        self.behaviour(context)
        return preprocess_pb2.GetServerInfoResponse(version="9", max_length_limit=self.calls)

    def StreamPreprocess(self, request_iterator, context):  # noqa: N802
        for request in request_iterator:
            yield preprocess_pb2.StreamPreprocessResponse(date=request.WhichOneof("payload"))


class Datasets(datasets_pb2_grpc.DatasetServiceServicer):
    """Remembers whether it was told the end of a stream; one that is cancelled can look as if it just ended."""

    def __init__(self) -> None:
        self.conversations = 0
        self.ended = threading.Event()
        self.complete = False

    def CreateDataset(self, request_iterator, context):  # noqa: N802
        try:
            for request in request_iterator:
                self.conversations += len(request.chunk.conversations)
                self.complete = request.HasField("end")
        finally:
            self.ended.set()
        return datasets_pb2.CreateDatasetResponse(dataset=datasets_pb2.Dataset(id="ds-1"))


@pytest.fixture
def server() -> Iterator[tuple[str, Preprocess, Datasets]]:
    preprocess, datasets = Preprocess(), Datasets()
    running = grpc.server(ThreadPoolExecutor(4))
    preprocess_pb2_grpc.add_PreprocessServiceServicer_to_server(preprocess, running)
    datasets_pb2_grpc.add_DatasetServiceServicer_to_server(datasets, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield f"127.0.0.1:{port}", preprocess, datasets
    running.stop(None).wait()


def aborting(code: grpc.StatusCode, sentence: str, *details: object) -> Callable[[grpc.ServicerContext], None]:
    def abort(context: grpc.ServicerContext) -> None:
        packed = []
        for detail in details:
            packed.append(Any())
            packed[-1].Pack(detail)
        status = status_pb2.Status(code=code.value[0], message=sentence, details=packed)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(code, sentence)

    return abort


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_is_one_exception_with_the_servers_sentence_field_and_hint(server, code: grpc.StatusCode) -> None:
    address, preprocess, _ = server
    violation = error_details_pb2.BadRequest.FieldViolation(field="options.model", description="is empty")
    preprocess.behaviour = aborting(
        code,
        "options.model: is empty",
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.ErrorInfo(reason="MODEL_EMPTY", metadata={"hint": "Name one."}),
        error_details_pb2.RetryInfo(retry_delay=Duration(seconds=7, nanos=500_000_000)),
    )
    with TurnloomClient(address) as client, pytest.raises(errors.TurnloomError) as caught:
        client.server_info()
    assert type(caught.value) is CLASSES[code]
    assert caught.value.message == "options.model: is empty"
    assert (caught.value.field, caught.value.hint, caught.value.code) == ("options.model", "Name one.", "MODEL_EMPTY")
    assert caught.value.violations == (errors.Violation("options.model", "is empty"),)
    assert caught.value.retry_after == 7.5


def test_a_server_that_is_unavailable_for_a_moment_is_asked_again(server) -> None:
    address, preprocess, _ = server

    def once(context: grpc.ServicerContext) -> None:
        if preprocess.calls == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "The server is loading its models.")

    preprocess.behaviour = once
    with TurnloomClient(address) as client:
        assert client.server_info().max_length_limit == 2


def test_a_call_that_this_server_does_not_know_points_to_the_versions(server) -> None:
    address, _, _ = server
    with (
        TurnloomClient(address) as client,
        pytest.raises(errors.Unimplemented, match="does not know this call") as caught,
    ):
        client.jobs.list().__next__()
    assert "turnloom doctor" in caught.value.hint


def test_a_refused_connection_is_one_sentence_with_the_address_and_what_to_start() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port, and it refuses
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with TurnloomClient(address) as client, pytest.raises(errors.ServerUnreachable) as caught:
            client.models.list()
        assert time.monotonic() - began < 20
    assert caught.value.message == f"No Turnloom server answers at {address}."
    assert "turnloom up" in caught.value.hint


def test_a_port_that_takes_connections_and_says_nothing_is_given_up_within_10_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with TurnloomClient(address) as client, pytest.raises(errors.ServerUnreachable, match=address):
            client.models.list()
        assert time.monotonic() - began < 25  # a call gets 30


@pytest.mark.timeout(60)
def test_a_call_that_ctrl_c_broke_off_while_grpc_began_it_holds_up_no_end(server, monkeypatch) -> None:
    def interrupted(_state: object) -> None:
        raise KeyboardInterrupt

    address, _, _ = server
    with TurnloomClient(address) as client:
        client.server_info()
        monkeypatch.setattr("grpc._channel._run_channel_spin_thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(client.datasets.download("ds-1"))


def test_a_client_is_closed_where_no_thread_starts_any_more(server, monkeypatch) -> None:
    def ends(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    address, _, _ = server
    client = TurnloomClient(address)
    client.server_info()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", ends)
        client.close()
    with pytest.raises(ValueError, match="closed channel"):
        client.server_info()


def test_what_goes_wrong_while_reading_reaches_the_caller_and_the_server_never_sees_an_end(server) -> None:
    address, _, datasets = server

    def conversations() -> Iterator:
        yield from [CONVERSATION] * 600
        raise errors.InvalidInput("my.jsonl, line 601: not JSON.")

    with TurnloomClient(address) as client:
        with pytest.raises(errors.InvalidInput, match="line 601"):
            client.datasets.create(conversations(), model="m")
        assert datasets.ended.wait(60)
    assert not datasets.complete


def test_a_dictionary_that_is_no_conversation_is_named_with_its_position(server) -> None:
    address, _, datasets = server
    with (
        TurnloomClient(address) as client,
        pytest.raises(errors.InvalidInput, match=r"conversations\[1\]: .*no key messages"),
    ):
        client.datasets.create([CONVERSATION, {"mesages": []}], model="m")
    assert not datasets.complete


def test_large_uploads_go_in_chunks_and_arrive_whole(server) -> None:
    address, _, datasets = server
    with TurnloomClient(address) as client:
        assert client.datasets.create([CONVERSATION] * 1000, model="m").id == "ds-1"
    assert (datasets.conversations, datasets.complete) == (1000, True)


def test_a_conversation_stream_answers_chunk_by_chunk(server) -> None:
    address, _, _ = server
    with TurnloomClient(address) as client:
        assert [answer.date for answer in client.stream_preprocess([CONVERSATION] * 300, model="m")] == [
            *("options", "chunk", "chunk")
        ]


@pytest.mark.parametrize("token", ["\u00e9", "a\n", "a\tb", "\udcff", "x" * 4097])
def test_a_token_that_no_header_can_carry_is_refused_at_once_and_not_repeated(token: str) -> None:
    with pytest.raises(errors.InvalidInput, match="The token is nothing that a header can carry") as caught:
        TurnloomClient("127.0.0.1:1", token)
    assert token not in f"{caught.value}{caught.value.hint}"


def test_the_longest_token_reaches_the_server(server) -> None:
    address, _, _ = server
    with TurnloomClient(address, "x" * 4096) as client:
        assert client.server_info().version == "9"


def test_tls_files_that_can_not_serve_are_named_before_anybody_is_called(tmp_path: Path) -> None:
    one, other = (certificates.authority(tmp_path, name) for name in ("one", "other"))
    words, locked = tmp_path / "words.pem", tmp_path / "locked.key"
    words.write_text("no certificate")
    cipher = ("ec", "-in", one.key, "-aes256", "-passout", "pass:secret", "-out", locked)
    subprocess.run(["openssl", *cipher], check=True, capture_output=True, timeout=60)
    no_pair = "hold no certificate and key in PEM form without a passphrase."
    for tls, sentence in (
        (Tls(words), f"{words}: holds no certificate in PEM form."),
        (Tls(tmp_path / "gone.pem"), f"{tmp_path / 'gone.pem'}: No such file or directory."),
        (Tls(one.certificate, words, one.key), f"{words} and {one.key}: {no_pair}"),
        (Tls(one.certificate, one.certificate, locked), f"{one.certificate} and {locked}: {no_pair}"),
        (
            Tls(None, one.certificate, other.key),
            f"{one.certificate} and {other.key}: the key is not that of the certificate.",
        ),
    ):
        with pytest.raises(errors.InvalidInput) as caught:
            TurnloomClient("127.0.0.1:1", tls=tls)
        assert caught.value.message == sentence
    TurnloomClient("127.0.0.1:1", tls=Tls(one.certificate, one.certificate, one.key)).close()
