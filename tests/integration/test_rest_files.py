"""Files over HTTP: uploads that are good, bad, too large, repeated or broken off, and whose they are."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import openai
import pytest

from tests.support.rest_server import Rest, below, error_of, get, lines, post, valid, wait


def upload(rest: Rest, content: bytes, name: str = "ann", **headers: str) -> httpx.Response:
    return post(
        f"{rest.url}/v1/files",
        headers={**rest.headers(name), **headers},
        files={"file": ("chats.jsonl", content)},
        data={"purpose": "fine-tune"},
    )


def test_a_file_is_uploaded_found_read_back_and_deleted(rest: Rest) -> None:
    client, content = rest.client("ann"), lines(3)
    file = valid(client.files.create(file=("C:\\my\\chats.jsonl", content), purpose="fine-tune"))
    assert (file.filename, file.bytes, file.purpose, file.status) == (
        "chats.jsonl",
        len(content),
        "fine-tune",
        "processed",
    )
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == content
    assert client.files.list().data == [file]
    assert client.files.list(purpose="batch").data == []
    deleted = valid(client.files.delete(file.id))
    assert (deleted.id, deleted.deleted) == (file.id, True)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    assert below(rest.files) == []


def test_files_are_listed_in_pages_in_both_orders(rest: Rest) -> None:
    client = rest.client("ann")
    made = {client.files.create(file=("a.jsonl", lines(n)), purpose="fine-tune").id for n in range(1, 6)}
    down = [file.id for file in client.files.list(limit=2)]
    assert (len(down), set(down)) == (5, made)
    assert [file.id for file in client.files.list(limit=2, order="asc")] == down[::-1]
    first = client.files.list(limit=2)
    assert first.has_more
    assert not client.files.list(limit=2, after=down[2]).has_more
    with pytest.raises(openai.BadRequestError, match="after: there is no 'file-x' in this list"):
        client.files.list(after="file-x")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"messages": [}\n', "chats.jsonl, line 1 is not JSON"),
        (lines() + b"\n\nno\n", "chats.jsonl, line 4 is not JSON"),
        (lines() + b'{"messages": [{"role": "user", "content": "\xff"}]}', "chats.jsonl, line 2 is not UTF-8."),
        (b'{"prompt": "a", "completion": "b"}\n', "line 1: there is no key messages (keys: prompt, completion)"),
        (b'{"messages": [{"content": "x"}]}\n', "line 1: messages[0]: has no role."),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]}',
            "line 1: messages[0].content[0]: has the type image_url; give text, nothing else can be trained on.",
        ),
        (lines() + b'{"messages": [], "tools": [NaN]}', "line 2: tools: holds NaN, which JSON can't hold."),
        (lines() + b'{"messages": [], "loss_mask": [NaN]}', "line 2: loss_mask: holds NaN, which JSON can't hold."),
        (b"", "chats.jsonl holds no conversation; send one at least."),
        (b"\n \n", "chats.jsonl holds no conversation; send one at least."),
        (b'{"messages": 7}', "line 1: messages: is the number 7; give a list."),
        (b"\x1f\x8b\x08\x00 gzip", "chats.jsonl, line 1 is not UTF-8."),
    ],
)
def test_a_malformed_file_is_refused_with_openais_body_and_our_sentence(
    rest: Rest, content: bytes, sentence: str
) -> None:
    answer = upload(rest, content)
    error = error_of(answer)
    assert answer.status_code == 400
    assert sentence in error["message"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "file", "invalid_file")
    assert below(rest.files) == []


def test_a_body_that_is_no_upload_says_what_is_missing(rest: Rest) -> None:
    client, good = rest.client("ann"), ("a.jsonl", lines())
    with pytest.raises(openai.BadRequestError, match="purpose: is 'vision'; send fine-tune"):
        client.files.create(file=good, purpose="vision")
    for form, sentence in (
        ({"files": {"file": good}}, "purpose: is missing"),
        ({"files": {"other": good}}, "file: is missing"),
        ({"files": [("file", good), ("file", good)]}, "file: came twice"),
        ({"data": {"purpose": "fine-tune", "why": "x"}, "files": {"file": good}}, "why: is not a field of an upload"),
        ({"data": {"purpose": "x" * 5000}, "files": {"file": good}}, "purpose: is longer than 4096 bytes"),
        ({"json": {"file": "x"}}, "is not multipart/form-data"),
        (
            {
                "content": b"--b\r\nContent-Disposition: form-data; name=file",
                "headers": {"Content-Type": "multipart/form-data; boundary=b"},
            },
            "ended before its last boundary",
        ),
        (
            {"content": b"nothing", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            "not multipart/form-data",
        ),
    ):
        headers = {**rest.headers("ann"), **form.pop("headers", {})}
        answer = post(f"{rest.url}/v1/files", headers=headers, **form)
        assert answer.status_code == 400, answer.text
        assert sentence in error_of(answer)["message"]
    assert below(rest.files) == []


def test_the_purpose_may_come_after_the_file(rest: Rest) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + lines(2)
        + b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n'
    )  # fmt: skip
    headers = {**rest.headers("ann"), "Content-Type": "multipart/form-data; boundary=b"}
    answer = post(f"{rest.url}/v1/files", headers=headers, content=body)
    assert answer.json()["bytes"] == len(lines(2))


def test_a_file_over_the_limit_is_refused_whether_or_not_its_size_was_announced(rest: Rest) -> None:
    large = lines(20_000)
    assert len(large) > 1_100_000
    announced = upload(rest, large)
    assert (announced.status_code, error_of(announced)["code"]) == (413, "file_too_large")
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    headers = {**rest.headers("ann"), "Content-Type": "multipart/form-data; boundary=b"}
    streamed = post(f"{rest.url}/v1/files", headers=headers, content=iter([head, large]))
    assert (streamed.status_code, error_of(streamed)["param"]) == (413, "file")
    assert below(rest.files) == []


def test_the_same_idempotency_key_makes_one_file_and_refuses_another(rest: Rest) -> None:
    first = upload(rest, lines(2), **{"Idempotency-Key": "k"}).json()
    again = upload(rest, lines(2), **{"Idempotency-Key": "k"}).json()
    assert again == first
    other = upload(rest, lines(3), **{"Idempotency-Key": "k"})
    assert (other.status_code, error_of(other)["code"]) == (400, "idempotency_key_in_use")
    assert upload(rest, lines(2), "bob", **{"Idempotency-Key": "k"}).json()["id"] != first["id"]
    assert [file.id for file in rest.client("ann").files.list()] == [first["id"]]
    assert len(below(rest.files)) == 4


def test_of_files_that_come_at_once_with_one_idempotency_key_one_is_kept_and_the_others_are_refused(rest: Rest) -> None:
    sent = [lines(count) for count in (2, 3, 4, 5)]
    for number in range(8):
        send = partial(upload, rest, **{"Idempotency-Key": f"k{number}"})
        with ThreadPoolExecutor(len(sent)) as pool:
            answers = list(pool.map(send, sent))
        ((data, made),) = [
            (data, answer.json()) for data, answer in zip(sent, answers, strict=True) if answer.status_code == 200
        ]
        content = get(f"{rest.url}/v1/files/{made['id']}/content", headers=rest.headers("ann"))
        assert content.content == data


@pytest.mark.parametrize("name", ["file-%00", "file-" + "a" * 300, "file-" + "A" * 24, "file-..%2f_", "file-%ff"])
def test_a_name_that_no_file_has_is_not_found(rest: Rest, name: str) -> None:
    for path in (name, f"{name}/content"):
        answer = get(f"{rest.url}/v1/files/{path}", headers=rest.headers("ann"))
        assert answer.status_code == 404


def test_a_file_can_expire(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    client = rest.client("ann")
    expiry = {"anchor": "created_at", "seconds": 3600}
    file = valid(client.files.create(file=("a.jsonl", lines()), purpose="fine-tune", expires_after=expiry))
    assert file.expires_at == file.created_at + 3600
    assert client.files.list().data == [file]
    monkeypatch.setattr(time, "time", lambda: file.created_at + 3601.0)
    assert client.files.list().data == []
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.BadRequestError, match="seconds from 3600"):
        client.files.create(file=("a.jsonl", lines()), purpose="fine-tune", expires_after={**expiry, "seconds": 5})


def test_tokens_decide_who_sees_and_deletes_a_file(rest: Rest) -> None:
    file = rest.client("ann").files.create(file=("a.jsonl", lines()), purpose="fine-tune")
    assert rest.client("bob").files.list().data == []
    with pytest.raises(openai.NotFoundError):
        rest.client("bob").files.retrieve(file.id)
    assert [one.id for one in rest.client("rita").files.list()] == [file.id]
    with pytest.raises(openai.PermissionDeniedError, match="sent with another token"):
        rest.client("rita").files.delete(file.id)
    with pytest.raises(openai.PermissionDeniedError, match="needs the scope submit"):
        rest.client("rita").files.create(file=("a.jsonl", lines()), purpose="fine-tune")
    assert rest.client("root").files.delete(file.id).deleted


def test_a_wrong_key_is_told_in_openais_words_of_status(rest: Rest) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        rest.client("wrong").files.list()
    assert caught.value.code == "invalid_api_key"
    assert "oken" in caught.value.message
    for headers in ({}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer a b"}):
        answer = get(f"{rest.url}/v1/files", headers=headers)
        assert answer.status_code == 401, headers
        assert error_of(answer)["code"] == "invalid_api_key"


def test_a_client_that_leaves_in_the_middle_of_an_upload_leaves_nothing(rest: Rest) -> None:
    host, port = rest.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {rest.tokens['ann']}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + lines(8000)[:500_000])
        wait(lambda: below(rest.files) != [], "the upload begins to be written")
    wait(lambda: below(rest.files) == [], "what was written is removed")
    assert rest.client("ann").files.list().data == []


def test_a_body_larger_than_any_conversation_is_refused_whether_or_not_its_size_was_announced(rest: Rest) -> None:
    url, large = f"{rest.url}/v1/fine_tuning/jobs", b"x" * (17 << 20)
    headers = {**rest.headers("ann"), "Content-Type": "application/json"}
    for content in (large, iter([large])):
        answer = post(url, headers=headers, content=content)
        assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")
    broken = post(url, headers=headers, content=b"{")
    assert (broken.status_code, error_of(broken)["code"]) == (400, "json_invalid")


def test_the_openapi_document_names_every_route(rest: Rest) -> None:
    document = json.loads(get(f"{rest.url}/openapi.json").text)
    assert {"/v1/files", "/v1/fine_tuning/jobs/{job}/events", "/v1/chat/completions"} <= set(document["paths"])
    answer = get(f"{rest.url}/v1/assistants")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "unknown_url")
    assert get(f"{rest.url}/health").json() == {"status": "ok"}
