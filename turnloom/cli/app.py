"""The commands put together, and the entry point."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from turnloom.cli import data, datasets, export, hosts, jobfile, jobs, metrics_export, sample, sweep, train, up

HELP = """Chat conversations into token-exact training batches, and LoRA adapters trained with them.

Exit codes: 0 ok, 1 job failed or cancelled, 2 bad input, 3 no server, 4 refused or not found, 5 server fault,
130 interrupted.
"""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
for part in (up, data, datasets, jobfile, train, sweep, jobs, export, sample, metrics_export, hosts):
    part.add_to(app)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"turnloom {metadata.version('turnloom')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)]


@app.callback(help=HELP)
def root(version: Version = False) -> None:
    """What is said before any command."""


def main() -> None:
    """The console script."""
    app(prog_name="turnloom")
