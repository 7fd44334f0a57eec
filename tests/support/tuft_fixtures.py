"""Fixtures: the fake TuFT (a process per test), the real TuFT on the CPU (one per session), and its tiny model.

Where TuFT is not installed the tests that need it are skipped with the reason, and fail when the variable CI is set.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.trainer.host.readiness import ready_model
from services.trainer.tuft_http import TuftHttp
from tests.fakes.fake_tuft import FakeTuft
from turnloom.embedded.sample_data import train_conversations, write_jsonl
from turnloom.embedded.tiny_model import build
from turnloom.embedded.tuft_server import TuftNotInstalled, TuftServer, TuftSettings, find_tuft_python


@pytest.fixture(scope="session")
def tuft_python() -> Path:
    """Interpreter of the TuFT environment."""
    try:
        return find_tuft_python()
    except TuftNotInstalled as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tiny_model_dir(tuft_python: Path, pytestconfig: pytest.Config) -> Path:
    """The tiny model with the tokenizer of the sample conversations; made once and kept in pytest's cache.

    Test processes share the cache: one makes the model, and none writes what another reads.
    """
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("tiny_model")
    conversations, part = folder / "conversations.jsonl", folder / "conversations.jsonl.part"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_jsonl(part, train_conversations())
        part.replace(conversations)
        return build(tuft_python, folder / "model", [conversations])


@pytest.fixture(scope="session")
def real_tuft(
    tuft_python: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TuftServer]:
    """The real TuFT, ready to train."""
    settings = TuftSettings(python=tuft_python, home=tmp_path_factory.mktemp("tuft"), model_path=tiny_model_dir)
    with TuftServer(settings) as server:
        server.create_and_unload()
        yield server


@pytest.fixture(scope="session")
def accelerated_tuft(
    tuft_python: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TuftServer]:
    """The real TuFT with the accelerated model, which services/tuft uses on a CPU where it is told to."""
    settings = TuftSettings(python=tuft_python, home=tmp_path_factory.mktemp("accelerated"), model_path=tiny_model_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TURNLOOM_TUFT_ACCELERATE", "always")
        server = TuftServer(settings)
        server.start()
    with server:
        server.create_and_unload()
        served = ready_model(TuftHttp(server.url, server.api_key), server.model_name)
        assert served.accelerated, served.not_accelerated
        yield server


@pytest.fixture
def fake_tuft(tmp_path: Path) -> Iterator[FakeTuft]:
    """The fake TuFT, with persistence."""
    with FakeTuft(tmp_path / "tuft") as fake:
        yield fake


@pytest.fixture
def packing_tuft(tmp_path: Path) -> Iterator[FakeTuft]:
    """The fake TuFT as an accelerated server, which packs up to 16 tokens into a pass, so that a call may have 64."""
    with FakeTuft(tmp_path / "tuft", packs=16) as fake:
        yield fake
