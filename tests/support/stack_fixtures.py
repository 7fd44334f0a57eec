"""A trainer's stack over the fake TuFT and a Redis of its own, and a small file of conversations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.fake_tuft import FakeTuft
from tests.support.api_calls import TUFT_MODEL
from tests.support.cli_runs import write_chats
from tests.support.redis_fixtures import RedisServer
from tests.support.trainer_stack import TrainerStack


@pytest.fixture
def stack(tmp_path: Path, redis_server: RedisServer) -> Iterator[TrainerStack]:
    redis_server.flush()
    with FakeTuft(tmp_path / "tuft", model_name=TUFT_MODEL) as tuft:
        made = TrainerStack(tmp_path, redis_server, tuft, lease_ttl=15.0)  # no worker is killed
        yield made
        made.close()


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return write_chats(tmp_path / "chats.jsonl", "hello", "good day", copies=12)
