"""The `turnloom` command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from turnloom.cli.running.interrupts import leave_at_once
from turnloom.optional import missing

NEEDED: Final = ("grpc", "google.protobuf", "numpy", "typer", "rich")

__all__ = ["main"]


def main() -> None:
    """Run the console script. Ctrl-C before the command begins ends it at once, without output.

    Imports the application only here, so that using one module of this package does not load it. If the client's
    libraries are missing, prints what to install.
    """
    leave_at_once()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: nobody wants what is written there
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # open to the end
    lacking = [name for name in NEEDED if missing(name)]
    if lacking:
        sys.exit(f"turnloom: {lacking[0]} is not installed; run pip install 'turnloom[client]' for the command line")
    from turnloom.cli.app import main as run  # noqa: PLC0415

    run()
