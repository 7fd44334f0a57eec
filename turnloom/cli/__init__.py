"""The `turnloom` command line."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130  #: exit code after Ctrl-C; a test holds it against exits.py
NEEDED: Final = ("grpc", "google.protobuf", "numpy", "typer", "rich")

__all__ = ["begin", "main"]


def main() -> None:
    """Run the console script. Ctrl-C before the command begins ends it at once, without output.

    Imports the application only here, so that using one module of this package does not load it. If the client's
    libraries are missing, prints what to install.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    missing = [name for name in NEEDED if not _is_installed(name)]
    if missing:
        sys.exit(f"turnloom: {missing[0]} is not installed; run pip install 'turnloom[client]' for the command line")
    from turnloom.cli.app import main as run  # noqa: PLC0415

    run()


def begin() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from now on: there is something to end in order."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _is_installed(name: str) -> bool:
    """Return whether a module can be imported, without the cost of importing it."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
