"""Turn errors into OpenAI's body and an HTTP status: one table, for all routes.

{"error": {"message": "one sentence and what to do", "type": "...", "param": "field or null", "code": "... or null"}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi.exceptions import RequestValidationError

from turnloom import errors

INVALID: Final = "invalid_request_error"
SHOWN: Final = 40  #: characters of a wrong value that an error repeats


class Problem(Exception):
    """An error response: the client's fault from 400 on, ours from 500 on."""

    def __init__(self, status: int, message: str, *, kind: str = INVALID, param: str = "", code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return the JSON that OpenAI's clients read."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param or None,
                "code": self.code or None,
            }
        }


class ClientLeft(Exception):
    """The client has left; its unfinished work ends."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer for one class of error."""

    status: int
    kind: str = INVALID
    code: str = ""  #: empty: the server's own, in lower case


#: OpenAI's clients send a request again after 408, 409, 429 and 5xx, so these stand only where that helps.
ANSWERS: Final[dict[type[errors.TurnloomError], Answer]] = {
    errors.InvalidInput: Answer(400),
    errors.InvalidArgument: Answer(400),
    errors.AlreadyExists: Answer(400, code="idempotency_key_in_use"),
    errors.FailedPrecondition: Answer(400),
    errors.OutOfRange: Answer(400),
    errors.NotFound: Answer(404, code="not_found"),
    errors.NotAllowed: Answer(403, code="insufficient_permissions"),
    errors.ResourceExhausted: Answer(429, "rate_limit_error"),
    errors.Unimplemented: Answer(400),
    errors.Unavailable: Answer(503, "server_error"),
    errors.ServerUnreachable: Answer(503, "server_error", "server_unreachable"),
    errors.DeadlineExceeded: Answer(504, "server_error"),
    errors.DamagedDownload: Answer(502, "server_error"),
    errors.StackError: Answer(500, "server_error"),
    errors.ServerFault: Answer(500, "server_error"),
    errors.Refused: Answer(500, "server_error"),
    errors.TurnloomError: Answer(500, "server_error"),
}
UNAUTHENTICATED: Final = Answer(401, code="invalid_api_key")
TOO_LARGE: Final = Answer(413, code="request_too_large")
#: Where the server's own code says more than the class.
BY_CODE: Final = {"UNAUTHENTICATED": UNAUTHENTICATED, "TOO_LARGE": TOO_LARGE, "STORE_FULL": Answer(507, "server_error")}


def problem_of(error: errors.TurnloomError) -> Problem:
    """Return the answer for an error of the client library, with its sentence, hint and field."""
    answer = BY_CODE.get(error.code) or next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    sentence = error.message
    if error.violations and error.violations[0].message not in sentence:
        sentence = f"{error.violations[0].field}: {error.violations[0].message}"
    if error.hint:
        sentence = f"{sentence} {error.hint}"
    if isinstance(error, errors.AlreadyExists):
        sentence = sentence.replace("request_id", "Idempotency-Key")  # what the caller sent it as
    return Problem(answer.status, sentence, kind=answer.kind, param=error.field, code=answer.code or error.code.lower())


def invalid(param: str, sentence: str, code: str = "") -> Problem:
    """Return a refusal of one field: `sentence` continues after the field's name."""
    return Problem(400, f"{param}: {sentence}", param=param, code=code)


def missing(what: str, name: str, code: str = "not_found") -> Problem:
    """Return the answer for an unknown name."""
    return Problem(404, f"There is no {what} {name!r}; look at the spelling and the token.", code=code)


#: What to say instead of pydantic's words, by its kind of mistake: `input` is what was sent, `expected` what may be.
SAID: Final[dict[str, str]] = {
    "extra_forbidden": "is no field of this request; leave it out, or look at the spelling",
    "literal_error": "is {input}; send {expected}, or leave it out",
    "missing": "is missing; send it",
    "none_required": "is not possible here; leave it out",
    "too_long": "is not possible here; leave it out",  # a list or object that may only be empty
}


def of_validation(error: RequestValidationError) -> Problem:
    """Return the first mistake in the shape of a request."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"][1:]]
    param = ".".join(path) or str(first["loc"][0])
    told = SAID.get(first["type"])
    return Problem(
        400, f"{param}: {_filled(told, first) if told else first['msg'].rstrip('.')}.", param=param, code=first["type"]
    )


def _filled(told: str, mistake: Mapping[str, Any]) -> str:
    sent = json.dumps(mistake["input"], default=str)
    expected = str(mistake.get("ctx", {}).get("expected", "")).replace("False", "false")  # pydantic has Python's word
    return told.format(input=sent if len(sent) <= SHOWN else f"{sent[:SHOWN]}...", expected=expected)
