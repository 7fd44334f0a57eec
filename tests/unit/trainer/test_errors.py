"""What the texts of tinker 0.25.0 and TuFT 0.2.2 mean; tests/contract provokes them on the real server."""

from __future__ import annotations

import pytest

from services.trainer.errors import HINTS, RETRYABLE, BackendError, Code, backend_error, classify
from services.trainer.tuft import check_key


class PermissionDeniedError(Exception):
    """As the SDK names it."""


class NotFoundError(Exception):
    """As the SDK names it."""


class APIConnectionError(Exception):
    """As the SDK names it."""


class RetryableException(Exception):
    """As the SDK names it."""


class ConflictError(Exception):
    """As the SDK names it."""


RUN = "3f0c5a6e-7c2f-4b7b-9f67-6a1f5a0c9d11"
TABLE = [
    (PermissionDeniedError("Error code: 403 - {'detail': 'Invalid API key'}"), Code.KEY_REJECTED),
    (ValueError("api_key must start with 'tml-' prefix"), Code.KEY_REJECTED),
    (Exception("Error code: 401 - {'detail': 'Missing API key'}"), Code.KEY_REJECTED),
    (
        NotFoundError("Error code: 404 - {'detail': 'Failed to create model: Unknown model: Qwen/Nope'}"),
        Code.MODEL_NOT_SERVED,
    ),
    (
        ValueError(
            "Error code: 400 - {'detail': \"Failed to create sampling session: Capability disabled: model m does "
            "not have the 'sampling' capability enabled on this server (enabled capabilities: ['training'])\"}"
        ),
        Code.CAPABILITY_DISABLED,
    ),
    (
        Exception(
            "Error code: 400 - FSDP LoRA rank 48 is not configured. This server preallocates slots for ranks [8, 16]."
        ),
        Code.RANK_NOT_CONFIGURED,
    ),
    (
        Exception(
            "Error code: 415 - {'detail': \"Unsupported Content-Type 'application/json'; "
            'expected application/x-protobuf"}'
        ),
        Code.SDK_MISMATCH,
    ),
    (Exception("Error code: 422 - [{'loc': ['body', 'optimizer_config'], 'msg': 'Extra inputs'}]"), Code.SDK_MISMATCH),
    (APIConnectionError("Connection error."), Code.SERVER_UNREACHABLE),
    (ConnectionRefusedError(111, "Connection refused"), Code.SERVER_UNREACHABLE),
    (TimeoutError("timed out"), Code.SERVER_UNREACHABLE),
    (Exception("Error code: 503 - Service Unavailable"), Code.SERVER_UNREACHABLE),
    (RetryableException(f"Promise expired/broken for request {RUN}"), Code.SERVER_RESTARTED),
    (
        ValueError(
            "Error retrieving result: Error code: 404 - {'detail': 'Failed to retrieve future: Future with request ID "
            f"{RUN} not found.'}} with status 404 for self.request_id='{RUN}'"
        ),
        Code.SERVER_RESTARTED,
    ),
    (
        ValueError(f"Error code: 404 - {{'detail': 'Failed to retrieve future: Unknown model: {RUN}'}}"),
        Code.SERVER_RESTARTED,
    ),
    (
        NotFoundError(f"Error code: 404 - {{'detail': 'Failed to create model: Session {RUN} not found.'}}"),
        Code.SERVER_RESTARTED,
    ),
    (
        ValueError("Error code: 409 - {'detail': 'Failed to retrieve future: Sequence conflict: expected 5, got 7.'}"),
        Code.SEQUENCE_CONFLICT,
    ),
    (ConflictError("Error code: 409 - conflict"), Code.SEQUENCE_CONFLICT),
    (
        ValueError(
            "Error retrieving result: Error code: 422 - {'detail': 'Future failed: Server error: "
            "ray::HFTrainingModel.forward()\\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 19.53 GiB."
            " GPU 0 has a total capacity of 139.80 GiB'} with status 422"
        ),
        Code.OUT_OF_MEMORY,
    ),
    (
        ValueError(
            "Error retrieving result: Error code: 422 - {'detail': 'Future failed: Server error: ActorDiedError'}"
        ),
        Code.UNKNOWN,
    ),
    (
        ValueError("Error code: 400 - Cannot load checkpoint x with LoRA rank 8 into a training run with LoRA rank 4."),
        Code.BAD_REQUEST,
    ),
    (Exception("something else"), Code.UNKNOWN),
]


@pytest.mark.parametrize(("error", "code"), TABLE, ids=[f"{code}-{n}" for n, (_, code) in enumerate(TABLE)])
def test_a_text_has_one_meaning(error: Exception, code: Code) -> None:
    found = classify(error, "forward_backward of 3 rows")
    assert found.code is code
    assert found.retryable is (code in RETRYABLE)
    assert found.hint == HINTS[code]
    assert found.sentence.startswith("forward_backward of 3 rows: ")
    assert "\n" not in found.sentence


def test_of_a_traceback_in_the_server_only_the_line_that_says_why_is_told() -> None:
    error = ValueError(
        r"Error retrieving result: Error code: 422 - {'detail': 'Future failed: Server error: "
        r"\x1b[36mray::HFTrainingModel.forward()\x1b[39m (pid=63, ip=192.0.2.2, actor_id=49, repr=<Model object>)\n"
        r'  File "/usr/lib/python3.12/concurrent/futures/_base.py", line 456, in result\n    return self.__get_result()'
        r"\n           ^^^^^^^^^^^^^\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 120.00 MiB.'}"
        " with status 422"
    )
    found = classify(error, "forward_backward of 8 rows")
    assert found.code is Code.OUT_OF_MEMORY
    assert found.sentence == (
        "forward_backward of 8 rows: the server: torch.OutOfMemoryError: CUDA out of memory. "
        "Tried to allocate 120.00 MiB."
    )


@pytest.mark.parametrize(
    "text",
    [
        "Error retrieving result: Error code: 422 - {'detail': 'Future failed: Server error: ActorDiedError'}",
        "Error code: 400 - {'detail': 'Bad rank'}",
        "CUDA error: an illegal memory access was encountered",
    ],
)
def test_a_text_without_a_traceback_is_told_as_it_is(text: str) -> None:
    assert classify(ValueError(text), "optim_step").sentence == f"optim_step: ValueError: {text}"


def test_every_code_is_in_the_table_and_has_a_hint() -> None:
    assert {code for _, code in TABLE} == set(Code) == set(HINTS)


def test_the_cause_decides_where_the_outer_text_says_nothing() -> None:
    error = RuntimeError("request failed")
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert classify(error, "x").code is Code.SERVER_UNREACHABLE


def test_an_error_that_is_classified_already_stays_as_it_is() -> None:
    error = backend_error(Code.BAD_REQUEST, "a row is too long", hint="Cut it.")
    assert classify(error, "x") is error
    assert isinstance(error, BackendError)
    assert str(error) == "BAD_REQUEST: a row is too long"


def test_long_texts_are_cut() -> None:
    assert len(classify(Exception("x" * 5000), "doing").sentence) < 500


def test_a_refused_key_is_not_in_the_text() -> None:
    with pytest.raises(BackendError, match="the TuFT key can't be used; give one that starts with tml-") as caught:
        check_key("secret-key")
    assert "secret-key" not in str(caught.value)
