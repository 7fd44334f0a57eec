"""The commands put together, each loaded when it is asked for, and the entry point."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_group

HELP = """Chat conversations into token-exact training batches, and LoRA adapters trained with them.

Exit codes: 0 ok, 1 job failed or cancelled, 2 bad input, 3 no server, 4 refused or not found, 5 server fault,
130 interrupted.
"""

#: First word of a command -> the module of this package that adds it, in the order of the help.
MODULES: Final[Mapping[str, str]] = {
    "up": "up",
    "models": "data",
    "preview": "data",
    "lint": "data",
    "dataset": "datasets",
    "init": "jobfile",
    "train": "train",
    "watch": "train",
    "sweep": "sweep",
    "sweeps": "sweep",
    "plot": "sweep",
    "jobs": "jobs",
    "job": "jobs",
    "steps": "jobs",
    "events": "jobs",
    "checkpoints": "jobs",
    "logs": "jobs",
    "cancel": "jobs",
    "pause": "jobs",
    "resume": "jobs",
    "move": "jobs",
    "queue": "jobs",
    "delete": "jobs",
    "adapter": "jobs",
    "export": "export",
    "sample": "sample",
    "serve": "publish",
    "push": "publish",
    "metrics": "metrics_export",
    "hosts": "hosts",
    "doctor": "hosts",
}


class Lazy(TyperGroup):
    """A group that imports the module of a command when the command is looked up, so that small ones start quickly."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all first words."""
        return [*MODULES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of this name; None: there is none."""
        if cmd_name not in MODULES:
            return None
        if cmd_name not in self.commands:
            part = typer.Typer()
            part.callback()(lambda: None)  # else Typer makes a group of one command that command itself
            importlib.import_module(f"turnloom.cli.{MODULES[cmd_name]}").add_to(part)
            part.registered_commands = [one for one in part.registered_commands if one.name == cmd_name]
            part.registered_groups = [one for one in part.registered_groups if one.name == cmd_name]
            self.commands.update(get_group(part).commands)  # the others of the module would take longer than this one
        return self.commands[cmd_name]


app = typer.Typer(cls=Lazy, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata  # noqa: PLC0415  # takes 50 ms, and only this needs it

        typer.echo(f"turnloom {metadata.version('turnloom')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)]


@app.callback(help=HELP)
def root(version: Version = False) -> None:
    """What is said before any command."""


def main() -> None:
    """The console script."""
    app(prog_name="turnloom")
