"""The `turnloom` command line."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final

from turnloom.cli.running.interrupts import leave_at_once

NEEDED: Final = ("grpc", "google.protobuf", "numpy", "typer", "rich")

__all__ = ["main"]


def main() -> None:
    """Run the console script. Ctrl-C before the command begins ends it at once, without output.

    Imports the application only here, so that using one module of this package does not load it. If the client's
    libraries are missing, prints what to install.
    """
    leave_at_once()
    missing = [name for name in NEEDED if not _is_installed(name)]
    if missing:
        sys.exit(f"turnloom: {missing[0]} is not installed; run pip install 'turnloom[client]' for the command line")
    from turnloom.cli.app import main as run  # noqa: PLC0415

    run()


def _is_installed(name: str) -> bool:
    """Return whether a module can be imported, without the cost of importing it."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
