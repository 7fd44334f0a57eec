"""These tests run inside TuFT's environment (../test_accelerated.py starts them); any other pytest passes them by."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("tuft") else ["test_*.py"]

if not collect_ignore_glob:
    import torch

    from tests.support.pace import any_pace
    from tests.unit.tuft.inside import material

    any_pace()
    torch.set_num_threads(1)

    @pytest.fixture(scope="session")
    def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Where the small models are, one folder each."""
        return tmp_path_factory.mktemp("models")

    @pytest.fixture(autouse=True)
    def no_gpu_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
        """As launch_cpu makes it in Ray's workers; and acceleration on, though there is no GPU."""
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device=None: None)
        monkeypatch.setenv("TURNLOOM_TUFT_ACCELERATE", "always")

    @pytest.fixture(params=sorted(material.CONFIGS))
    def kind(request: pytest.FixtureRequest) -> str:
        """Every architecture."""
        return str(request.param)

    @pytest.fixture
    def pair(folder: Path) -> tuple[material.Model, material.Model]:
        """Stock and accelerated Qwen3 in fp32, with one and the same adapter "one"."""
        return material.pair(folder, "qwen3")

    @pytest.fixture
    def run():
        """Runs a coroutine of the model's."""
        return asyncio.run
