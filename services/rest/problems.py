"""Turn errors into OpenAI's body and an HTTP status: one table, for all routes.

{"error": {"message": "one sentence and what to do", "type": "...", "param": "field or null", "code": "... or null"}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi.exceptions import RequestValidationError

from services.quoting import cut
from turnloom import errors

INVALID: Final = "invalid_request_error"
AWAY_SECONDS: Final = 2  #: Retry-After where the API or the file store is away; every other wait is the API's own
SHOWN: Final = 40  #: characters of a wrong value that an error repeats


class Problem(Exception):
    """An error response: the client's fault from 400 on, ours from 500 on."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str = "",
        code: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after  #: seconds, said in Retry-After; None or 0: nothing is said

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
BY_CODE: Final = {
    "UNAUTHENTICATED": UNAUTHENTICATED,
    "TOO_LARGE": TOO_LARGE,
    "WORK_EXCEEDED": TOO_LARGE,
    "STORE_FULL": Answer(507, "server_error"),
}


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
    return Problem(
        answer.status,
        sentence,
        kind=answer.kind,
        param=error.field,
        code=answer.code or error.code.lower(),
        retry_after=AWAY_SECONDS if isinstance(error, errors.ServerUnreachable) else error.retry_after,
    )


def invalid(param: str, sentence: str, code: str = "") -> Problem:
    """Return a refusal of one field: `sentence` continues after the field's name."""
    return Problem(400, f"{param}: {sentence}", param=param, code=code)


def missing(what: str, name: str, code: str = "not_found") -> Problem:
    """Return the answer for an unknown name."""
    return Problem(404, f"There is no {what} {cut(name)!r}; look at the spelling and the token.", code=code)


WHOLE: Final = "is {input}; send a whole number"
NUMBER: Final = "is {input}; send a number"
TRUTH: Final = "is {input}; send true or false"
OBJECT: Final = "is {input}; send an object"
WRONG: Final = "wrong_value"  #: kind of mistake in a field that says by itself what it takes (bodies.taking)
#: What to say instead of pydantic's words, by its kind of mistake: `input` was sent, other names are pydantic's.
SAID: Final[dict[str, str]] = {
    "bool_parsing": TRUTH,
    "bool_type": TRUTH,
    "dict_type": OBJECT,
    "extra_forbidden": "is no field of this request; leave it out, or look at the spelling",
    "finite_number": WHOLE,  # NaN and infinity; fields of other numbers pass them on
    "float_parsing": NUMBER,
    "float_type": NUMBER,
    "greater_than_equal": "is {input}; send {ge} or more",
    "int_from_float": WHOLE,
    "int_parsing": WHOLE,
    "int_parsing_size": "is {input}; send a smaller number",
    "int_type": WHOLE,
    "json_invalid": "is no JSON from character {position} on; send one JSON object",
    "less_than_equal": "is {input}; send {le} at most",
    "list_type": "is {input}; send a list",
    "literal_error": "is {input}; send {expected}, or leave it out",
    "missing": "is missing; send it",
    "model_attributes_type": OBJECT,
    "none_required": "is not possible here; leave it out",
    "string_too_long": "is longer than {max_length} characters; send a shorter one",
    "string_type": "is {input}; send text",
    "too_long": "is not possible here; leave it out",  # a list or object that may only be empty
    WRONG: "is {input}; send {expected}",
}
UNREAD: Final = 400  #: FastAPI's own status for a body that is no UTF-8 or nested too deeply
NO_JSON: Final = "is not sent as JSON; send one JSON object with Content-Type: application/json"


def of_validation(error: RequestValidationError) -> Problem:
    """Return the first mistake in the shape of a request."""
    first = error.errors()[0]
    place, *path = first["loc"]
    kind = first["type"]
    values = dict(first.get("ctx", {}))
    if kind == "json_invalid":
        values["position"], path = path[0] + 1, []  # FastAPI names the place in the text, from 0
    param = ".".join(map(str, path)) or str(place)
    if place == "header":
        param = param.title()
    told = NO_JSON if isinstance(first["input"], bytes) else SAID.get(kind, first["msg"].rstrip("."))
    return Problem(400, f"{param}: {_filled(told, first['input'], values)}.", param=param, code=kind)


def unread_body() -> Problem:
    """Return the answer for a body that no parser of JSON reads to its end."""
    return Problem(
        400,
        "body: can't be read; send one JSON object in UTF-8, nested less deeply.",
        param="body",
        code="json_invalid",
    )


def _filled(told: str, sent: object, values: Mapping[str, Any]) -> str:
    shown = json.dumps(sent, default=str)
    expected = str(values.get("expected", "")).replace("False", "false")  # pydantic has Python's word
    return told.format(
        **{**values, "input": shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}...", "expected": expected}
    )
