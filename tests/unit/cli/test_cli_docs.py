from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from scripts import cli_docs
from turnloom.cli.app import app
from turnloom.cli.running.exits import Exit

FOLDER = Path(__file__).resolve().parents[3] / "docs"
DOCS = (FOLDER / "cli.md").read_text(encoding="utf-8")
GUIDE = (FOLDER / "guide.md").read_text(encoding="utf-8")


COMMANDS = dict(cli_docs.commands(get_command(app)))


def test_the_page_of_the_command_line_is_what_the_command_line_says() -> None:
    assert cli_docs.written(DOCS) == DOCS, "run: python scripts/cli_docs.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_every_command_is_one_that_it_takes(name: str) -> None:
    head = f"Example: turnloom {name}"
    assert COMMANDS[name].epilog.startswith(head)
    words = shlex.split(COMMANDS[name].epilog.removeprefix(head))
    COMMANDS[name].make_context(name, words)  # raises where it would refuse them


def test_no_two_commands_do_the_same() -> None:
    told: dict[str, list[str]] = {}
    for name, one in COMMANDS.items():
        told.setdefault(one.help, []).append(name)
    assert [names for names in told.values() if len(names) > 1] == []


def test_the_guide_describes_every_exit_code() -> None:
    assert [int(line.split("|")[1]) for line in DOCS.splitlines() if line.startswith("| ") and line[2].isdigit()] == [
        int(code) for code in Exit
    ]


def test_every_command_of_the_step_by_step_guide_exists_and_every_picture_is_there() -> None:
    known = {words for name in COMMANDS for words in (name, name.split()[0])}
    used = set(re.findall(r"(?:^|`)turnloom ([a-z]+)", GUIDE, re.MULTILINE))
    assert {"train", "sweep", "init", "export", "sample"} <= used <= known
    pictures = re.findall(r"]\(((?:images|\.\.)/[^)]+)\)", GUIDE)
    assert len(pictures) == 4  # two of them are links into examples/
    assert all((FOLDER / path).is_file() for path in pictures)
