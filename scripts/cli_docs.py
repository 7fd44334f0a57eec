"""Write the commands of docs/cli.md from the command line itself.

python scripts/cli_docs.py      replaces what stands between the two marks; a test compares
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from typer.main import get_command

from turnloom.cli.app import app
from turnloom.cli.options.groups import Budget, Preprocessing, RowChoice, Submission
from turnloom.cli.running.session import COMMON

PAGE: Final = Path(__file__).resolve().parents[1] / "docs/cli.md"
MARKS: Final = ("<!-- commands: written by scripts/cli_docs.py -->\n", "<!-- end of commands -->\n")
#: Groups of options that several commands share: told once, below all commands.
SHARED: Final[Mapping[str, type]] = {
    "Preprocessing options": Preprocessing,
    "Row options": RowChoice,
    "Budget options": Budget,
    "Submission options": Submission,
}


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the words of every command and the command, in the order of the command line's own help."""
    for name in group.list_commands(None):
        child = group.get_command(None, name)
        if hasattr(child, "list_commands"):
            yield from commands(child, (*words, name))
        else:
            yield " ".join((*words, name)), child


def section(name: str, command: Any) -> Iterator[str]:
    """Yield the paragraphs of one command."""
    yield f"### `{name}`"
    yield from paragraphs(command.help)
    yield f"```\n{command.epilog.removeprefix('Example: ')}\n```"
    found = {
        title: group for title, group in SHARED.items() if names(group) <= {option.name for option in command.params}
    }
    told = set(COMMON) | {name for group in found.values() for name in names(group)}
    own = [option for option in command.params if option.name not in told and option.name != "help"]
    if own:
        yield table(own)
    if found:
        links = ", ".join(f"[{title.lower()}](#{title.lower().replace(' ', '-')})" for title in found)
        yield f"Also takes {links}."


def paragraphs(text: str) -> Iterator[str]:
    """Yield a docstring's paragraphs, wrapped at 100."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        yield textwrap.fill(" ".join(paragraph.split()), 100, break_long_words=False, break_on_hyphens=False)


def names(group: type) -> set[str]:
    """Return the names of a group's options."""
    return {field.name for field in fields(group)}


def table(options: Iterable[Any]) -> str:
    """Return a table of options: how each is written, and its help."""
    lines = ["| | |", "|---|---|"]
    for option in options:
        written = ", ".join(f"`{word}`" for word in (*option.opts, *option.secondary_opts) if word.startswith("-"))
        value = f" {option.metavar}" if option.metavar and written else ""
        lines.append(f"| {written or f'`{option.metavar}`'}{value} | {cell(option.help)} |")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Return text that a table takes."""
    return re.sub(r"\s+", " ", text or "").replace("|", "\\|")


def page() -> Iterator[str]:
    """Yield the paragraphs between the marks."""
    yield "## Commands"
    found = list(commands(get_command(app)))
    for name, command in found:
        yield from section(name, command)
    yield "## Options of several commands"
    by_name = {option.name: option for _, command in reversed(found) for option in command.params}
    for title, group in SHARED.items():
        yield f"### {title}"
        yield table(by_name[field.name] for field in fields(group))


def written(text: str) -> str:
    """Return the page with its commands as the command line has them now."""
    begin, end = (text.index(mark) for mark in MARKS)
    return text[: begin + len(MARKS[0])] + "\n" + "\n\n".join(page()) + "\n\n" + text[end:]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
