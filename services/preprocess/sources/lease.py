"""Keeps a task while a thread of this process works on it, and says when to stop. Knows no row."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from services.store.dataset_work import DatasetWork
from services.store.errors import Fenced, IllegalEdge, NotFound, RedisUnavailable

LOG = logging.getLogger("turnloom.sources")


class NotWanted(Exception):
    """Nobody waits for this task any more: cancelled, taken over, or behind a row that ends the dataset."""


class Lease:
    """A context manager; its thread renews every third of the lease."""

    def __init__(self, work: DatasetWork, dataset_id: str, task: str, holder: str, bad_shard: int | None) -> None:
        self._work = work
        self._dataset_id = dataset_id
        self.task = task
        self.holder = holder
        self.read = 0  #: conversations that this task has read; set by whoever works
        self._ended = threading.Event()
        self._why = ""
        self.behind_bad_shard = False  #: an earlier shard holds a row that ends the dataset
        self._note(bad_shard)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        """Begin to renew."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Renew no more."""
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Go on? Raises NotWanted."""
        if self._why:
            raise NotWanted(self._why)

    def renew(self) -> None:
        """Renew now, publishing `read`; afterwards `check` says what came of it."""
        try:
            self._note(self._work.renew(self._dataset_id, self.task, self.holder, self.read))
        except (Fenced, IllegalEdge, NotFound) as error:
            self._why = str(error)

    def _keep(self) -> None:
        while not self._ended.wait(self._work.lease_ttl / 3) and not self._why:
            try:
                self.renew()
            except RedisUnavailable as error:  # the lease may end; doing a task twice is harmless
                LOG.warning("lease not renewed", extra={"task": self.task, "reason": str(error)})

    def _note(self, bad_shard: int | None) -> None:
        if bad_shard is not None and self.task.isdigit() and bad_shard < int(self.task):
            self.behind_bad_shard = True
            self._why = f"shard {bad_shard} holds a row that ends the dataset"
