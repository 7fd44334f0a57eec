"""Runs `turnloom` against a server and takes its answer apart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from turnloom.cli.app import app


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    code: int
    out: str  #: stdout
    err: str  #: stderr

    @property
    def document(self):
        """stdout as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list:
        """stdout as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, str]:
        """stderr as the document of an error."""
        return json.loads(self.err.splitlines()[-1])["error"]


def turnloom(address: str, *arguments: str | Path | int) -> Ran:
    """Runs one command in this process."""
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, words, env={"TURNLOOM_ADDRESS": address, "NO_COLOR": "1"}, prog_name="turnloom")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def write_chats(path: Path, *turns: str, copies: int = 1) -> Path:
    """A JSONL file of conversations with these turns, user first; the copy's number goes into the first turn."""
    lines = []
    for copy in range(copies):
        said = [f"{turns[0]} {copy}", *turns[1:]]
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
        lines.append(json.dumps({"messages": messages}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path
