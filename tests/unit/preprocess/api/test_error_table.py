"""Every domain error has a status, and no answer outgrows the trailers that carry it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from urllib.parse import quote

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from services.preprocess.api.status_table import (
    HINTS,
    RETRY_SECONDS,
    STATUS,
    internal_status,
    rich_status,
    status_of,
    whole_sentence,
)
from services.preprocess.domain import refusals
from services.preprocess.domain.refusals import InvalidRequest, Violation
from services.store import errors as store
from turnloom.masks.domain import errors

ROOTS = (errors.PreprocessError, refusals.Refusal, store.StoreError)


def descendants(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def detail(status: Status, message: BadRequest | ErrorInfo | RetryInfo) -> bool:
    return any(item.Unpack(message) for item in status.details)


@pytest.mark.parametrize("kind", [child for root in ROOTS[1:] for child in descendants(root)], ids=lambda k: k.__name__)
def test_every_error_of_api_and_store_has_a_status_of_its_own(kind: type[Exception]) -> None:
    assert kind in STATUS


def test_every_error_of_preprocessing_has_a_status() -> None:
    for kind in descendants(errors.PreprocessError):
        assert any(base in STATUS for base in kind.__mro__), kind


def test_roots_of_api_and_store_have_none_so_that_a_new_class_is_missed() -> None:
    assert refusals.Refusal not in STATUS
    assert store.StoreError not in STATUS


def test_the_table_names_only_classes_that_can_be_raised() -> None:
    known = {kind for root in ROOTS for kind in (root, *descendants(root))}
    assert set(STATUS) | set(HINTS) | set(RETRY_SECONDS) <= known


def test_an_unforeseen_error_has_no_status_and_a_fixed_sentence() -> None:
    assert status_of(KeyError("conversation text")) is None
    status = internal_status("abc")
    assert status.message == ("The server met an error that it did not foresee (error id abc); its log says where.")
    info = ErrorInfo()
    assert detail(status, info)
    assert info.metadata["error_id"] == "abc"


def test_fields_travel_as_bad_request_with_the_reason() -> None:
    error = InvalidRequest([Violation("a.b", "is 0; 1 is needed."), Violation("c", "is not set.")])
    status = rich_status(error, grpc.StatusCode.INVALID_ARGUMENT)
    assert status.message == "a.b: is 0; 1 is needed. (and 1 more)"
    bad, info = BadRequest(), ErrorInfo()
    assert detail(status, bad)
    assert [(item.field, item.description) for item in bad.field_violations] == [
        ("a.b", "is 0; 1 is needed."),
        ("c", "is not set."),
    ]
    assert detail(status, info)
    assert (info.reason, info.domain, info.metadata["param"]) == ("INVALID_REQUEST", "turnloom", "a.b")


def test_what_may_pass_by_itself_says_when_to_try_again() -> None:
    retry = RetryInfo()
    assert detail(rich_status(refusals.Loading(), grpc.StatusCode.UNAVAILABLE), retry)
    assert retry.retry_delay.seconds == 2


@pytest.mark.parametrize("text", ["x", "ü", "😀", "%"])
@pytest.mark.parametrize("count", [1, 50, 10_000])
@pytest.mark.parametrize("length", [1, 400, 100_000])
def test_no_answer_outgrows_half_of_the_trailers(text: str, count: int, length: int) -> None:
    said = text * length
    error = InvalidRequest([Violation(f"conversations[{i}].messages[0]", said) for i in range(count)])
    status = rich_status(error, grpc.StatusCode.INVALID_ARGUMENT)
    bad = BadRequest()
    assert detail(status, bad)
    assert 1 <= len(bad.field_violations) <= 50
    sent = len(base64.b64encode(status.SerializeToString())) + len(quote(status.message))
    assert sent < 8 * 1024


@pytest.mark.parametrize(
    ("said", "whole"),
    [
        ("there is no job job-1", "There is no job job-1."),
        ("job job-1 is SUCCEEDED and can't become PAUSING", "Job job-1 is SUCCEEDED and can't become PAUSING."),
        ("page_token 'x' was not given by this server", "page_token 'x' was not given by this server."),
        ("s3://bucket/x holds no file a", "s3://bucket/x holds no file a."),
        ("There is no host 'x'; ListHosts names them.", "There is no host 'x'; ListHosts names them."),
        ("", "."),
    ],
)
def test_remarks_of_the_store_reach_people_as_whole_sentences(said: str, whole: str) -> None:
    assert whole_sentence(said) == whole
    status = rich_status(store.NotFound(said), grpc.StatusCode.NOT_FOUND)
    info = ErrorInfo()
    assert status.message == whole
    assert detail(status, info)
    assert info.metadata["hint"].endswith(".")
