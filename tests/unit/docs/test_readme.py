"""Every path that README names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODEL = "turnloom/tiny-qwen3"  # the demo's model is named like a path
FOUND = re.findall(r"(?:turnloom|services|proto|tests|scripts|docs|examples)/[\w./-]*\w", README)
PATHS = sorted(set(FOUND) - {MODEL})


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_the_readme_names_exists(path: str) -> None:
    assert (ROOT / path).exists(), path
