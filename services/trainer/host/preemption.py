"""The wish of this host that the horse leaves: a signal from the worker, heard from the first moment on."""

from __future__ import annotations

import signal
import threading

SIGNAL = signal.SIGUSR1  #: the worker sends it to its horse when it has to leave

wanted = threading.Event()  #: set for good by the first such signal; a horse works on one job


def listen() -> None:
    """Hears the signal in this process."""
    signal.signal(SIGNAL, lambda _signal, _frame: wanted.set())
