"""Preemption signal of this host, sent by the worker: the horse listens from its start, saves and leaves."""

from __future__ import annotations

import signal
import threading

SIGNAL = signal.SIGUSR1  #: the worker sends it to its horse when it has to leave

wanted = threading.Event()  #: set for good by the first such signal; a horse works on one job


def listen() -> None:
    """Install the signal handler in this process."""
    signal.signal(SIGNAL, lambda _signal, _frame: wanted.set())
