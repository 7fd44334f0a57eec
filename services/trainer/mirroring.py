"""Copy checkpoints to the object store while the job trains. Another host can then go on if this one is lost.

One copy is under way at most, and the newest checkpoint goes next: older ones that wait are passed over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from services.store.errors import CheckpointNotUsable, Fenced, NotFound, StoreError, StoreUnavailable
from services.store.records import CheckpointRecord
from services.trainer.aside import Outage
from services.trainer.errors import StopRun

log = logging.getLogger(__name__)


class Mirror:
    """A thread that copies the checkpoint last given to `offer`."""

    def __init__(self, copy: Callable[[CheckpointRecord], None], outage: Outage, again: float = 10.0) -> None:
        """Prepare the mirror; the thread starts with the first offer.

        Args:
            copy: copies one checkpoint and notes it in the ledger.
            outage: hears of copies that fail.
            again: seconds after which a copy that failed is tried again, if nothing newer came.
        """
        self._copy = copy
        self._outage = outage
        self._again = again
        self._change = threading.Condition()
        self._next: CheckpointRecord | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def offer(self, checkpoint: CheckpointRecord) -> None:
        """Copy this checkpoint next, instead of any that waits."""
        with self._change:
            if self._closed:
                return
            self._next = checkpoint
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
                self._thread.start()
            self._change.notify()

    def close(self, seconds: float) -> None:
        """Start no other copy, and wait up to `seconds` for the one under way. May be repeated."""
        with self._change:
            self._closed, self._next = True, None
            self._change.notify()
        if self._thread is not None:
            self._thread.join(seconds)

    def _work(self) -> None:
        while (checkpoint := self._take()) is not None:
            try:
                self._copy(checkpoint)
                self._outage.went_through("mirror")
            except Fenced:
                return
            except (NotFound, CheckpointNotUsable) as error:  # removed meanwhile, for it was one too many
                log.info("checkpoint %s is not copied: %s", checkpoint.id, error)
            except (StoreError, StopRun, OSError) as error:
                log.warning("checkpoint %s is not copied yet: %s", checkpoint.id, error)
                if isinstance(error, StoreUnavailable):
                    self._outage.failed("mirror", error)
                self._put_back(checkpoint)

    def _take(self) -> CheckpointRecord | None:
        with self._change:
            self._change.wait_for(lambda: self._closed or self._next is not None)
            taken, self._next = self._next, None
            return taken

    def _put_back(self, checkpoint: CheckpointRecord) -> None:
        """Try again after a pause, unless a newer checkpoint came."""
        with self._change:
            self._change.wait_for(lambda: self._closed or self._next is not None, timeout=self._again)
            if self._next is None and not self._closed:
                self._next = checkpoint
