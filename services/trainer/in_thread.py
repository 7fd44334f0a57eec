"""Run a call that may hang in a thread that is never joined: the process can then end without it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Value = TypeVar("Value")


def in_thread(work: Callable[[], Value], name: str) -> Future[Value]:
    """Start the call, and return the future of its result.

    Args:
        work: the call.
        name: of the thread.
    """
    future: Future[Value] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # handed to the waiting thread
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
