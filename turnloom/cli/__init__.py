"""The `turnloom` command line."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130  #: exit code after Ctrl-C; a test holds it against exits.py


def main() -> None:
    """Run the console script. Ctrl-C before the command begins ends it at once, without a word.

    The application is imported here, so that who needs one module of this package does not load it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from turnloom.cli.app import main as run  # noqa: PLC0415

    run()


def begin() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from now on: there is something to end in order."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


__all__ = ["begin", "main"]
