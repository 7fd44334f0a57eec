"""An API that reads named sources, and its workers. What tests do with them is in source_runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_calls import MODEL, Start
from tests.support.source_runs import Sources, Workers


@pytest.fixture
def sources(start_api: Start, redis_url: str, model_folder: Path, tmp_path: Path) -> Iterator[Sources]:
    """An API and the settings of its workers; a test starts as many as it needs."""
    roots = tmp_path / "sources"
    roots.mkdir()
    models = tmp_path / "models.toml"
    models.write_text(f'[[models]]\nname = "{MODEL}"\nsource = "{model_folder}"\n')
    workers = Workers(
        {
            "TURNLOOM_REDIS_URL": redis_url,
            "TURNLOOM_STORE_URL": str(tmp_path / "store"),
            "TURNLOOM_MODELS": str(models),
            "TURNLOOM_SOURCE_ROOTS": str(roots),
            "TURNLOOM_SHARD_LEASE": "6",
            "TURNLOOM_LOG_LEVEL": "warning",
        }
    )
    yield Sources(start_api(redis_url, source_roots=(str(roots),)), roots, workers)
    workers.end()
