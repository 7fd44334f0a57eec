"""The worker's side of a sample: what it refuses by itself, and what of a server's words it passes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from services.store.connection import connect, redis_time
from services.trainer import sample as trainer
from services.trainer.backend import Sampled, Sampling
from services.trainer.errors import CheckpointLost, Code, backend_error
from services.trainer.host import preemption
from services.trainer.tuft import TuftSettings


@dataclass
class Server:
    """Stands in for tuft.sample; the contract tests hold that to servers."""

    raises: Exception | None = None
    deadline: float = 0.0

    def sample(
        self,
        settings: TuftSettings,
        path: str,
        prompts: list[tuple[list[int], Sampling]],
        interrupted: Callable[[], None],
        *,
        base_model: str,
    ) -> list[Sampled]:
        self.deadline = settings.call_deadline
        interrupted()
        if self.raises is not None:
            raise self.raises
        return [Sampled((7, 8), "length") for _ in prompts]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Iterator[Server]:
    server = Server()
    monkeypatch.setattr(trainer, "sample", server.sample)
    for name, value in {
        "TURNLOOM_HOST": "h",
        "TURNLOOM_REDIS_URL": redis_url,
        "TURNLOOM_TUFT_API_KEY": "tml-x",
        "TURNLOOM_TUFT_CHECKPOINT_DIR": "/nowhere",
        "TURNLOOM_ALLOW_CPU": "1",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    preemption.wanted.clear()


def run(redis_url: str, seconds: float = 30.0) -> object:
    with connect(redis_url) as redis:
        until = redis_time(redis) + seconds
    return trainer.run(
        path="tinker://r/weights/c", model="m", prompt=[1], stop=[2], max_tokens=9, temperature=1.0, top_p=1.0,
        seed=None, until=until,
    )  # fmt: skip


def test_a_reply_comes_as_ids_and_leaves_time_to_travel(server: Server, redis_url: str) -> None:
    assert run(redis_url, seconds=300.0) == {"token_ids": [7, 8], "finish_reason": "length"}
    assert 200 < server.deadline < 299.1


def test_nothing_is_done_for_a_caller_who_has_left(server: Server, redis_url: str) -> None:
    assert run(redis_url, seconds=1.5) == {
        "code": "TOO_LATE",
        "message": "the worker came to this sample when nobody waited for it any more",
        "hint": "",
    }
    assert server.deadline == 0


def test_a_worker_that_has_to_leave_says_so(server: Server, redis_url: str) -> None:
    preemption.wanted.set()
    answer = run(redis_url)
    assert answer == {"code": "TOO_LATE", "message": "the worker has to leave before the sample is done", "hint": ""}


def test_what_the_server_says_is_passed_on_without_numbers_that_may_be_the_prompt(
    server: Server, redis_url: str
) -> None:
    server.raises = backend_error(
        Code.BAD_REQUEST, "422: {'input': [151644, 872,198, 5], 'other': [1, 2, 3, 4 ...", hint="x"
    )
    answer = run(redis_url)
    assert answer == {"code": "BAD_REQUEST", "message": "422: {'input': [...], 'other': [...]", "hint": "x"}
    server.raises = backend_error(Code.SERVER_RESTARTED, "the connection broke")
    assert run(redis_url) == {"code": "SERVER_RESTARTED", "message": "the connection broke", "hint": "Ask again."}
    server.raises = CheckpointLost("the server has no files of tinker://r/weights/c")
    assert run(redis_url) == {
        "code": "CHECKPOINT_LOST",
        "message": "the server has no files of tinker://r/weights/c",
        "hint": "",
    }
