from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from typer.main import get_command

from turnloom.cli.app import app
from turnloom.cli.exits import Exit

FOLDER = Path(__file__).resolve().parents[3] / "docs"
DOCS = (FOLDER / "cli.md").read_text(encoding="utf-8")
GUIDE = (FOLDER / "guide.md").read_text(encoding="utf-8")


def names(command: object, words: tuple[str, ...] = ()) -> Iterator[str]:
    children = getattr(command, "commands", None)
    if children is None:
        yield " ".join(words)
    else:
        for name, child in children.items():
            yield from names(child, (*words, name))


def test_the_guide_describes_every_command() -> None:
    aliases = {"job delete"}  # `delete JOB` is the same
    missing = [name for name in names(get_command(app)) if f"`{name}" not in DOCS and name not in aliases]
    assert not missing


def test_the_guide_describes_every_exit_code() -> None:
    assert [int(line.split("|")[1]) for line in DOCS.splitlines() if line.startswith("| ") and line[2].isdigit()] == [
        int(code) for code in Exit
    ]


def test_every_command_of_the_step_by_step_guide_exists_and_every_picture_is_there() -> None:
    known = {words for name in names(get_command(app)) for words in (name, name.split()[0])}
    used = set(re.findall(r"(?:^|`)turnloom ([a-z]+)", GUIDE, re.MULTILINE))
    assert {"train", "sweep", "init", "export", "sample"} <= used <= known
    pictures = re.findall(r"]\(((?:images|\.\.)/[^)]+)\)", GUIDE)
    assert len(pictures) == 4  # two of them are links into examples/
    assert all((FOLDER / path).is_file() for path in pictures)
