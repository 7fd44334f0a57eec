"""The commands put together, and the entry point."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from turnloom.cli import data, datasets, hosts, jobs, train, up

HELP = """Chat conversations into token-exact training batches, and LoRA adapters trained with them.

Exit codes: 0 ok, 1 job failed or cancelled, 2 bad input, 3 no server, 4 refused or not found, 5 server fault,
130 interrupted.
"""

app = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_enable=False)
for part in (up, data, datasets, train, jobs, hosts):
    part.add_to(app)


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Prints the version and ends, where asked for."""
    if version:
        typer.echo(f"turnloom {metadata.version('turnloom')}")
        raise typer.Exit


root.__doc__ = HELP


def main() -> None:
    """The console script."""
    app(prog_name="turnloom")
