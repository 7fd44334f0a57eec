"""docs/monitoring.md names every metric that the sources of API and exporter spell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
SOURCES = [
    *(ROOT / "services" / "preprocess" / "api").rglob("*.py"),
    *(ROOT / "services" / "trainer" / "supervision").rglob("*.py"),
]
METRICS = sorted(
    {name for path in SOURCES for name in re.findall(r'"((?:turnloom|grpc_server)_[a-z_]+)"', path.read_text())}
)


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_stands_on_the_page(metric: str) -> None:
    assert re.search(rf"`{metric}(_total)?`", PAGE), metric


def test_the_metrics_are_found() -> None:
    assert {"turnloom_api_bytes_in_work", "turnloom_run_state", "grpc_server_handled"} <= set(METRICS)
