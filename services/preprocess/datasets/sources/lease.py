"""Hold the lease of a task while a thread of this process works on it, and signal when to stop."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final

from services.store.dataset_work import DatasetWork
from services.store.errors import Fenced, IllegalEdge, NotFound, RedisUnavailable

LOG = logging.getLogger("turnloom.sources")
BREAK_EVERY: Final = 0.5  #: seconds between signals to a block that nobody waits for, while it does not end
BREAKS: Final = signal.SIGUSR1  #: RQ uses others


class NotWanted(Exception):
    """The task is no longer wanted: cancelled, taken over, or behind a row that ends the dataset."""


class Lease:
    """A lease as a context manager; its thread renews every third of the lease."""

    def __init__(self, work: DatasetWork, dataset_id: str, task: str, holder: str, bad_shard: int | None) -> None:
        self._work = work
        self._dataset_id = dataset_id
        self.task = task
        self.holder = holder
        self.read = 0  #: conversations that this task has read; set by whoever works
        self._ended = threading.Event()
        self._why = ""
        self.behind_bad_shard = False  #: an earlier shard holds a row that ends the dataset
        self._breakable: int | None = None  #: thread that runs a block of breaking()
        self._guard = threading.Lock()
        self._note(bad_shard)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        """Start renewing."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop renewing."""
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Raise NotWanted if the task is no longer wanted."""
        if self._why:
            raise NotWanted(self._why)

    @contextmanager
    def breaking(self) -> Iterator[None]:
        """Raise NotWanted in the block as soon as the task is no longer wanted, even during a network wait.

        Use it in the main thread only, since signal handlers run there alone.
        """
        before = signal.signal(BREAKS, lambda _number, _frame: self.check())
        with self._guard:
            self._breakable = threading.get_ident()
        try:
            yield
        finally:
            with self._guard:
                self._breakable = None
            signal.signal(BREAKS, before)

    def renew(self) -> None:
        """Renew now, publishing `read`; `check` then reports the outcome."""
        try:
            self._note(self._work.renew(self._dataset_id, self.task, self.holder, self.read))
        except (Fenced, IllegalEdge, NotFound) as error:
            self._why = str(error)

    def _keep(self) -> None:
        while not self._ended.wait(self._work.lease_ttl / 3) and not self._why:
            try:
                self.renew()
            except RedisUnavailable as error:  # the lease may expire; doing a task twice is harmless
                LOG.warning("lease not renewed", extra={"task": self.task, "reason": str(error)})
        while not self._ended.wait(BREAK_EVERY):
            with self._guard:
                if self._breakable is not None:
                    signal.pthread_kill(self._breakable, BREAKS)

    def _note(self, bad_shard: int | None) -> None:
        if bad_shard is not None and self.task.isdigit() and bad_shard < int(self.task):
            self.behind_bad_shard = True
            self._why = f"shard {bad_shard} holds a row that ends the dataset"
