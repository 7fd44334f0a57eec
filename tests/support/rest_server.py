"""The HTTP service in a thread on a free port, and OpenAI's own client to it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import uvicorn
from openai import OpenAI
from openai._models import BaseModel

from services.rest.app import make_app
from services.rest.settings import RestSettings
from tests.support.api_calls import Api

#: httpx itself waits 5 seconds, which are few on a busy machine.
get, post = partial(httpx.get, timeout=60), partial(httpx.post, timeout=60)
CHAT = {"messages": [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]}


@dataclass(frozen=True, slots=True)
class Rest:
    """A running service."""

    url: str
    api: Api
    files: Path  #: folder of uploads
    tokens: dict[str, str]
    client: Callable[[str], OpenAI]  #: of a person, or of a token that nobody has

    def headers(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[name]}"}


@contextmanager
def serving(settings: RestSettings) -> Iterator[str]:
    """The service; yields its root URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        config = uvicorn.Config(make_app(settings), log_level="warning", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        end = time.monotonic() + 120
        while not server.started:
            assert time.monotonic() < end, "the service did not start"
            time.sleep(0.01)
        yield url
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def openai_client(url: str, token: str = "any") -> Iterator[OpenAI]:
    """OpenAI's client; it never sends a request twice by itself, so that tests see each answer."""
    with OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0, timeout=60) as client:
        yield client


def valid(answer: BaseModel) -> BaseModel:
    """The answer, held against the SDK's own types, which it builds without looking."""
    dumped = json.loads(answer.model_dump_json(warnings="error"))
    type(answer).model_validate(dumped)
    return answer


def lines(count: int = 1, **more: object) -> bytes:
    """A JSONL file of chats that differ."""
    return b"".join(
        json.dumps({"messages": [{"role": "user", "content": f"question {i}"}, CHAT["messages"][1]], **more}).encode()
        + b"\n"
        for i in range(count)
    )


def error_of(response: httpx.Response) -> dict[str, str]:
    """The error of OpenAI's body, whose fields are all there."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def wait(condition: Callable[[], bool], what: str) -> None:
    """Until it is so; fails after two minutes."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def below(folder: Path) -> list[str]:
    """Every file below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
