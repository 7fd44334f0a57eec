"""docs/configuration.md: written from the code, and complete."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from scripts import configuration_docs as docs
from services.trainer.settings import companion_from_environment, from_environment

ROOT = Path(__file__).resolve().parents[3]
PAGE = docs.PAGE.read_text(encoding="utf-8")
READING = (".md", ".py", ".sh", ".yml", ".yaml", ".conf", "Makefile", "Dockerfile", ".example")
#: Beginnings of names, and names of the tests' own.
NO_VARIABLE = {"TURNLOOM_", "TURNLOOM_TLS_", "TURNLOOM_TUFT_", "TURNLOOM_REST_", "TURNLOOM_API_TLS_"}


def test_the_page_is_what_the_code_reads() -> None:
    assert docs.page() == PAGE, "run: python -m scripts.configuration_docs"


def test_every_variable_that_any_file_names_is_on_the_page() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    sources = [name for name in listed if name.endswith(READING) and not name.startswith(("tests/", "bench/"))]
    named = {
        variable
        for name in sources
        for variable in re.findall(r"(?<![A-Z_])TURNLOOM_[A-Z_]+", (ROOT / name).read_text(encoding="utf-8"))
    }
    variables = {name.removesuffix("_FILE") for name in named} - NO_VARIABLE
    assert len(variables) > 50
    assert sorted(variable for variable in variables if f"`{variable}`" not in PAGE) == []


def test_the_defaults_of_the_page_are_those_of_the_code() -> None:
    needed = {"TURNLOOM_HOST": "h", "TURNLOOM_TUFT_API_KEY": "tml-x", "TURNLOOM_TUFT_CHECKPOINT_DIR": "/c"}
    found = numbers("Worker on a GPU host")
    assert len(found) == 9
    assert from_environment(needed | found) == from_environment(needed)
    found = numbers("Supervisor and exporter")
    assert len(found) == 10
    assert companion_from_environment(found) == companion_from_environment({})


def numbers(section: str) -> dict[str, str]:
    """The variables of a section whose default is a number."""
    (text,) = (one for one in PAGE.split("\n## ") if one.startswith(section))
    return dict(re.findall(r"^\| `(TURNLOOM_\w+)` \| `([\d.]+)` \|", text, re.MULTILINE))


def test_every_setting_has_a_meaning_and_a_name_once_a_table() -> None:
    for section in PAGE.split("\n## ")[1:]:
        rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", section, re.MULTILINE)
        assert len({name for name, _ in rows}) == len(rows), section[:40]
        assert all(meaning.strip() for _, meaning in rows), rows
