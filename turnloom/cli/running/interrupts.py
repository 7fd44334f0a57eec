"""Leave at once on Ctrl-C while nothing has begun; raise KeyboardInterrupt afterwards."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130  #: exit code after Ctrl-C; a test holds it against exits.py


def leave_at_once() -> None:
    """End the process on Ctrl-C without output, unless the caller has its own handler."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def begin() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from now on: there is something to end in order."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
