"""Renew a job's lease from a thread of the horse, and receive requests to the job there."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from services.outages import OutageLog
from services.store.errors import Fenced, RedisUnavailable, StoreError
from services.store.records import Control

FENCED_EXIT = 75  #: exit status of a horse that did not leave by itself after it was fenced
FENCED_GRACE = 5.0  #: seconds that the loop has to leave by itself

log = logging.getLogger(__name__)


class Lease:
    """Context manager around a claimed job. `control` is the last known request; `check` raises once fenced."""

    def __init__(self, renew: Callable[[], Control], ttl: float, leave: Callable[[int], None] = os._exit) -> None:
        """Prepare the lease; the thread starts with `with`.

        Args:
            renew: renews the lease once; raises Fenced.
            ttl: seconds that the lease holds; it is renewed every third of it.
            leave: ends the process; called when the loop hangs although it is fenced.
        """
        self._renew = renew
        self._every = ttl / 3
        self._leave = leave
        self._over = threading.Event()
        self._fenced: Fenced | None = None
        self.control = Control.NONE
        self.ending = False  #: the attempt is giving the job back: that the lease is gone is no news then
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(timeout=FENCED_GRACE)

    def heard(self, control: Control) -> None:
        """Take in the request that a commit returned; a request is never forgotten."""
        if control is not Control.NONE:
            self.control = control

    def check(self) -> None:
        """Raise Fenced once another attempt holds the job."""
        if self._fenced is not None:
            raise self._fenced

    def _keep(self) -> None:
        outage = OutageLog(log, "the lease can't be renewed")
        while not self._over.wait(self._every):
            try:
                self.heard(self._renew())
                outage.went_through()
            except Fenced as error:
                if self.ending:
                    return
                self._fenced = error
                log.warning("fenced: %s", error)
                if not self._over.wait(FENCED_GRACE):
                    self._leave(FENCED_EXIT)
                return
            except RedisUnavailable as error:
                outage.failed(error)
            except StoreError:
                log.exception("the lease was not renewed")
