"""The fields that Python sends to a script are those that the script reads and that its first line names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

STORE = Path(__file__).parents[3] / "services" / "store"
SCRIPTS = sorted(path.stem for path in (STORE / "lua").glob("*.lua") if path.stem != "common")


def read_fields(script: str) -> set[str]:
    return set(re.findall(r"\barg\.(\w+)", (STORE / "lua" / f"{script}.lua").read_text(encoding="utf-8")))


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path in STORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("run", "read")
            ):
                name = node.args[0] if node.args else None
                if isinstance(name, ast.Constant) and name.value in SCRIPTS:
                    yield str(name.value), node


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_reads_exactly_the_fields_that_it_is_sent(script: str) -> None:
    sent = [node for name, node in calls() if name == script]
    assert sent, f"nothing runs {script}.lua"
    for node in sent:
        assert len(node.args) == 1, f"{script}: arguments have names"
        assert {item.arg for item in node.keywords if item.arg} <= read_fields(script)
    names = {item.arg for node in sent for item in node.keywords}
    if None not in names:  # a call with ** spells its fields elsewhere
        assert names == read_fields(script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_first_line_of_a_script_names_every_field(script: str) -> None:
    text = (STORE / "lua" / f"{script}.lua").read_text(encoding="utf-8")
    assert "ARGV" not in text
    head = " ".join(line for line in text.splitlines() if line.startswith("-- "))
    assert [name for name in sorted(read_fields(script)) if not re.search(rf"\b{name}\b", head)] == []
