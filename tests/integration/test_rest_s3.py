"""Uploads in an object store, over a real S3 API: found, trained on, and what is said when the bucket is in trouble."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from contextvars import ContextVar

import httpx
import openai
import pytest
from openai import OpenAI

from services.rest.settings import RestSettings
from services.store.blobs import deadlines
from tests.support.api_calls import Start
from tests.support.rest_server import error_of, lines, openai_client, serving, valid, wait

pytest.importorskip("s3fs")
from tests.support.s3_server import S3, s3_server

pytestmark = pytest.mark.usefixtures("gpu_host")

FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    with s3_server(monkeypatch) as server:
        yield server


@pytest.fixture
def url(s3: S3, start_api: Start, redis_url: str) -> Iterator[str]:
    """A service whose uploads go to the bucket."""
    api = start_api(redis_url)
    with serving(RestSettings(api=api.address, files_url=f"{s3.url}/uploads", max_file_bytes=40_000_000)) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with ExitStack() as stack:
        yield stack.enter_context(openai_client(url))


def test_a_file_is_uploaded_read_back_used_by_a_job_and_deleted(client: OpenAI, s3: S3) -> None:
    content = lines(3)
    file = client.files.create(file=("a.jsonl", content), purpose="fine-tune")
    assert client.files.content(file.id).content == content
    assert client.files.list().data == [file]
    model = client.models.list().data[0].id
    jobs = [
        valid(client.fine_tuning.jobs.create(model=model, training_file=file.id, hyperparameters={"n_epochs": 1}))
        for _ in range(2)  # the second finds the dataset by the note on the file
    ]
    assert {job.training_file for job in jobs} == {file.id}
    client.files.delete(file.id)
    assert s3.names() == []


def test_a_conversation_that_no_model_can_train_on_is_named_by_its_line(client: OpenAI) -> None:
    file = client.files.create(
        file=("a.jsonl", lines(2) + b'{"messages": [{"role": "user", "content": "q"}]}\n'), purpose="fine-tune"
    )
    with pytest.raises(openai.BadRequestError, match=r"a\.jsonl, line 3"):
        client.fine_tuning.jobs.create(model=client.models.list().data[0].id, training_file=file.id)


def test_a_repeated_upload_with_one_key_is_one_file(client: OpenAI) -> None:
    sent = [
        client.files.create(
            file=("a.jsonl", lines(2)), purpose="fine-tune", extra_headers={"Idempotency-Key": "one"}
        ).id
        for _ in range(2)
    ]
    assert sent[0] == sent[1]
    assert [file.id for file in client.files.list()] == sent[:1]


def test_a_refused_and_a_broken_upload_leave_nothing(url: str, s3: S3) -> None:
    """The file is larger than one part of a multipart upload, so parts were sent when it is given up."""
    large = lines(1, metadata={"filler": "x" * 1_000_000}) * 12
    answer = httpx.post(
        f"{url}/v1/files", files={"file": ("a.jsonl", large + b"no\n")}, data={"purpose": "fine-tune"}, timeout=60
    )
    assert "line 13 is not JSON" in error_of(answer)["message"]
    assert s3.names() == []

    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + large
        raise ConnectionAbortedError  # the client leaves

    with pytest.raises(ConnectionAbortedError):
        httpx.post(f"{url}/v1/files", headers=FORM, content=body(), timeout=60)
    # The request is known before the server has done it.
    wait(
        lambda: (
            any(method == "DELETE" and "uploadId" in path for method, path in s3.door.requests)
            and s3.open_uploads() == 0
        ),
        "the upload in parts is given up",
    )
    assert s3.names() == []


@pytest.mark.parametrize(
    ("mode", "status", "words"),
    [
        ("full", 507, "The file store is full"),
        ("wrong key", 503, "The file store can't be used"),
        ("broken", 503, "The file store can't be used"),
        ("mute", 503, "The file store can't be used"),
        ("deaf", 503, "The file store can't be used"),
    ],
)
def test_a_bucket_in_trouble_is_one_sentence(
    url: str, s3: S3, mode: str, status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = ContextVar("answer_seconds", default=2.0 if mode in ("mute", "deaf") else 60.0)
    with monkeypatch.context() as patch:
        patch.setattr(deadlines, "_answer_seconds", seconds)
        s3.door.mode = mode
        for content in (lines(), lines(1, metadata={"filler": "x" * 1_000_000}) * 12):  # in one request, and in parts
            answer = httpx.post(
                f"{url}/v1/files", files={"file": ("a.jsonl", content)}, data={"purpose": "fine-tune"}, timeout=60
            )
            assert (answer.status_code, words in error_of(answer)["message"]) == (status, True), answer.text
            assert answer.headers.get("retry-after") == (None if status == 507 else "2")
        s3.door.mode = ""
    assert s3.names() == []


def test_content_that_breaks_off_is_never_taken_for_whole(client: OpenAI, s3: S3) -> None:
    file = client.files.create(file=("a.jsonl", lines(50)), purpose="fine-tune")
    s3.door.mode = "cut"
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        client.files.content(file.id).read()
