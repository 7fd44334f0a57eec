"""Requests of a wrong shape, over HTTP without a Turnloom behind: one sentence for each mistake that pydantic finds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, ValidationError

from services.rest.app import make_app
from services.rest.bodies import CreateJob
from services.rest.chat_bodies import CreateChat, CreateCompletion
from services.rest.problems import SAID
from services.rest.settings import read_settings

JOBS, CHAT, TEXTS = "/v1/fine_tuning/jobs", "/v1/chat/completions", "/v1/completions"
WHOLE: dict[str, dict[str, Any]] = {
    JOBS: {"model": "m", "training_file": "f"},
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    TEXTS: {"model": "m", "prompt": "x"},
}
UNICODE = "send whole characters, no half of a pair"
VALUES = ["x", "", 1, -1, 1.5, 10**30, float("nan"), True, None, [], [1], [[1]], [{}], {}, {"a": 1}, {"a": {}}]


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    return {"TURNLOOM_REST_API": "127.0.0.1:9", "TURNLOOM_REST_FILES_URL": str(tmp_path)}


def refusals(settings: dict[str, str], requests: Iterable[tuple[str, str, dict[str, Any]]]) -> list[dict[str, str]]:
    """Return the error of each request: method, path and what httpx sends."""

    async def asked() -> list[dict[str, str]]:
        app = make_app(read_settings(settings))
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as http,
        ):
            answers = [await http.request(method, path, **sent) for method, path, sent in requests]
        assert [answer.status_code for answer in answers] == [400] * len(answers)
        return [answer.json()["error"] for answer in answers]

    return asyncio.run(asked())


def changed(path: str, field: str, value: object) -> tuple[str, str, dict[str, Any]]:
    """Return a request that is good but for a value."""
    body = {**WHOLE[path], field: value}
    return "POST", path, {"content": json.dumps(body), "headers": {"content-type": "application/json"}}


@pytest.mark.parametrize(
    ("path", "field", "value", "param", "sentence"),
    [
        (JOBS, "model", 5, "model", "is 5; send text"),
        (JOBS, "seed", "x", "seed", 'is "x"; send a whole number'),
        (JOBS, "seed", 1.5, "seed", "is 1.5; send a whole number"),
        (JOBS, "metadata", {"a": 1}, "metadata.a", "is 1; send text"),
        (JOBS, "metadata", [], "metadata", "is []; send an object"),
        (JOBS, "integrations", {}, "integrations", "is {}; send a list"),
        (JOBS, "integrations", [{"type": "x", "wandb": {"project": "p"}}], "integrations.0.type", 'send "wandb"'),
        (JOBS, "method", {"type": "x"}, "method.type", 'is "x"; send "supervised"'),
        (JOBS, "hyperparameters", {"n_epochs": 1.5}, "hyperparameters.n_epochs", 'send a whole number or "auto"'),
        (JOBS, "turnloom", "x", "turnloom", 'is "x"; send an object'),
        (CHAT, "messages", "x", "messages", 'is "x"; send a list'),
        (CHAT, "messages", ["x"], "messages.0", 'is "x"; send an object'),
        (CHAT, "max_tokens", 0, "max_tokens", "is 0; send 1 or more"),
        (CHAT, "temperature", "hot", "temperature", 'is "hot"; send a number'),
        (CHAT, "stream", "sure", "stream", 'is "sure"; send true or false'),
        (CHAT, "stop", [1], "stop", "is [1]; send a text or a list of texts"),
        (CHAT, "n", 10**30, "n", f"is {10**30}; send a smaller number"),
        (TEXTS, "prompt", [[1, 2]], "prompt", "is [[1, 2]]; send a text or a list of texts"),
        (JOBS, "model", "\ud800", "model", f'is "\\ud800"; {UNICODE}'),
        (JOBS, "metadata", {"a": "\udfff"}, "metadata", f'is {{"a": "\\udfff"}}; {UNICODE}'),
        (JOBS, "metadata", {"\udfff": "a"}, "metadata", f'is {{"\\udfff": "a"}}; {UNICODE}'),
        (JOBS, "turnloom", {"options": {"o": [["\ud800"]]}}, "turnloom", UNICODE),
        (JOBS, "integrations", [{"type": "wandb", "wandb": {"project": "\ud800"}}], "integrations", UNICODE),
        (CHAT, "messages", [{"role": "user", "content": "a\udc00b"}], "messages", UNICODE),
        (TEXTS, "stop", ["\ud83d"], "stop", f'is ["\\ud83d"]; {UNICODE}'),
    ],
)
def test_a_value_of_another_kind_is_told_with_what_to_send(
    settings: dict[str, str], path: str, field: str, value: object, param: str, sentence: str
) -> None:
    (error,) = refusals(settings, [changed(path, field, value)])
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")
    assert error["message"].endswith(f"{sentence}.")


def test_a_whole_surrogate_pair_is_a_character() -> None:
    body = json.loads('{"model": "\\ud83d\\ude00", "training_file": "\u00e9", "metadata": {"a": "\\ud83d\\ude00"}}')
    assert CreateJob.model_validate(body).model == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("content", "kind", "sentence"),
    [
        (b"", "application/json", "body: is missing; send it."),
        (b"[]", "application/json", "body: is []; send an object."),
        (b'{"a": 1, ', "application/json", "body: is no JSON from character 10 on; send one JSON object."),
        (b"\xff", "application/json", "body: can't be read; send one JSON object in UTF-8, nested less deeply."),
        (b"[" * 100_000, "application/json", "body: can't be read; send one JSON object in UTF-8, nested less deeply."),
        (
            b"{}",
            "text/plain",
            "body: is not sent as JSON; send one JSON object with Content-Type: application/json.",
        ),
    ],
)
def test_a_body_that_is_no_object_is_told(settings: dict[str, str], content: bytes, kind: str, sentence: str) -> None:
    sent = {"content": content, "headers": {"content-type": kind}}
    for error in refusals(settings, [("POST", path, sent) for path in WHOLE]):
        assert (error["message"], error["param"]) == (sentence, "body")


def test_mistakes_in_an_address_or_header_are_told(settings: dict[str, str]) -> None:
    long = {**changed(JOBS, "seed", 1)[2]["headers"], "idempotency-key": "x" * 129}
    told = refusals(
        settings,
        [
            ("GET", f"{JOBS}?limit=0", {}),
            ("GET", f"{JOBS}?limit=1001", {}),
            ("GET", "/v1/files?limit=many", {}),
            ("POST", JOBS, {"content": json.dumps(WHOLE[JOBS]), "headers": long}),
        ],
    )
    assert [error["message"] for error in told] == [
        'limit: is "0"; send 1 or more.',
        'limit: is "1001"; send 1000 at most.',
        'limit: is "many"; send a whole number.',
        "Idempotency-Key: is longer than 128 characters; send a shorter one.",
    ]


@pytest.mark.parametrize(("model", "path"), [(CreateJob, JOBS), (CreateChat, CHAT), (CreateCompletion, TEXTS)])
def test_every_kind_of_mistake_that_a_field_can_hold_has_a_sentence(model: type[BaseModel], path: str) -> None:
    met: set[str] = set()
    for body in _bodies(model, WHOLE[path]):
        try:
            model.model_validate(body, from_attributes=True)  # as FastAPI does
        except ValidationError as error:
            met.update(mistake["type"] for mistake in error.errors())
    assert met - set(SAID) == set()
    assert len(met) > 8


def _bodies(model: type[BaseModel], whole: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield good bodies with one value changed, also in the objects that they hold."""
    nested = {
        "hyperparameters": {"n_epochs", "batch_size", "learning_rate_multiplier"},
        "method": {"type", "supervised", "dpo"},
        "integrations": {"type", "wandb"},
        "turnloom": {"hyperparameters", "options", "host", "webhook"},
        "stream_options": {"include_usage", "include_obfuscation"},
    }
    for field in model.model_fields:
        for value in VALUES:
            yield {**whole, field: value}
            for inner in sorted(nested.get(field, ())):
                yield {**whole, field: [{inner: value}] if field == "integrations" else {inner: value}}
