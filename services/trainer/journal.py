"""Write the loop's records into the ledger: in order, once, through outages of Redis.

Records wait in `_outbox` until the ledger took them. Those that it took stay in `_tail`, back to the checkpoint before
the last one. A Redis that crashed may have lost its last second: it then answers "gap" and is sent them again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from services.store.errors import Fenced, RedisUnavailable
from services.store.ledger import Commit, Outcome
from services.store.records import CheckpointRecord, Control, StepRecord
from services.trainer.lease import Lease

Record = StepRecord | CheckpointRecord

DRAIN_PAUSE = 0.2  #: seconds between attempts while nothing else is left to do

log = logging.getLogger(__name__)


class RedisLost(Exception):
    """Redis was away for longer than a run may go on without it."""


class LedgerGap(Exception):
    """Redis lost more than the run remembers; only a new attempt can mend it."""


class Ledger(Protocol):
    """The two commits of services.store.ledger.Ledger."""

    def commit_step(self, job_id: str, record: StepRecord) -> Commit:
        """Commit one step."""
        ...

    def commit_checkpoint(self, job_id: str, record: CheckpointRecord) -> Commit:
        """Commit one checkpoint."""
        ...


class LedgerJournal:
    """A Journal (loop.py) on a ledger."""

    def __init__(
        self,
        ledger: Ledger,
        job: str,
        *,
        lease: Lease,
        preempted: threading.Event,
        patience: float,
        clock: Callable[[], float],
        events: Callable[[str, str, str, dict[str, str]], None],
        saved: Callable[[CheckpointRecord], None],
    ) -> None:
        """Prepare the journal; this sends nothing.

        Args:
            ledger: where records go.
            job: its id.
            lease: kept by another thread; says when the attempt is over.
            preempted: set when this process is asked to leave.
            patience: seconds without Redis after which the run ends.
            clock: monotonic seconds.
            events: writes level, type, message, fields.
            saved: called with every checkpoint that the ledger took.
        """
        self._ledger = ledger
        self._job = job
        self._lease = lease
        self._preempted = preempted
        self._patience = patience
        self._clock = clock
        self._events = events
        self._saved = saved
        self._outbox: deque[Record] = deque()
        self._tail: dict[tuple[type, int], Record] = {}
        self._lost_at: float | None = None
        self._waiting_events: list[tuple[str, str, str, dict[str, str]]] = []

    def step(self, record: StepRecord) -> None:
        """Record one step. Raises Fenced, RedisLost, LedgerGap."""
        self._outbox.append(record)
        self.flush()

    def checkpoint(self, record: CheckpointRecord) -> None:
        """Record one checkpoint. Raises as step."""
        self._outbox.append(record)
        self.flush()

    def control(self) -> Control:
        """Return the last known request; a person's takes precedence over this host's."""
        self._lease.check()
        if self._lease.control is not Control.NONE:
            return self._lease.control
        return Control.PREEMPT if self._preempted.is_set() else Control.NONE

    def event(self, level: str, kind: str, message: str, **fields: str) -> None:
        """Record an event, and log it. Kept back while Redis is away."""
        log.log(logging.getLevelNamesMapping()[level.upper()], "%s: %s", kind, message)
        self._waiting_events.append((level, kind, message, fields))
        self._send_events()

    def flush(self) -> None:
        """Send the waiting records. While Redis is away, return at once until `patience` is over."""
        self._lease.check()
        resends = 0
        while self._outbox:
            record = self._outbox[0]
            try:
                commit = self._commit(record)
            except RedisUnavailable as error:
                self._without_redis(error)
                return
            if commit.outcome is Outcome.FENCED:
                raise Fenced(f"{self._job}: another attempt holds the job")
            if commit.outcome is Outcome.GAP:
                resends += 1
                self._rewind(commit, resends)
                continue
            self._lease.heard(commit.control)
            self._outbox.popleft()
            self._remember(record)
        if self._lost_at is not None:
            self.event("warning", "REDIS_LOST", f"Redis was away for {self._clock() - self._lost_at:.0f} s.")
            self._lost_at = None
        self._send_events()

    def drain(self) -> None:
        """Wait until Redis has taken all records: the next action needs them in the ledger. Otherwise as flush."""
        pause = threading.Event()
        while self._outbox:
            self.flush()
            if self._outbox:
                pause.wait(DRAIN_PAUSE)

    def _commit(self, record: Record) -> Commit:
        if isinstance(record, StepRecord):
            return self._ledger.commit_step(self._job, record)
        return self._ledger.commit_checkpoint(self._job, record)

    def _remember(self, record: Record) -> None:
        place = (type(record), record.step)
        new = place not in self._tail
        self._tail[place] = record
        if isinstance(record, CheckpointRecord) and new:
            saved = [step for kind, step in self._tail if kind is CheckpointRecord]
            if len(saved) > 2:  # the last and the one before it are kept
                self._tail = {place: one for place, one in self._tail.items() if one.step >= saved[-2]}
            self._saved(record)

    def _rewind(self, commit: Commit, resends: int) -> None:
        """Put records that the ledger has lost back into the outbox."""
        lost = [
            record
            for record in self._tail.values()
            if record.step > (commit.last if isinstance(record, StepRecord) else commit.checkpoint_step)
        ]
        steps = [record.step for record in (*lost, *self._outbox) if isinstance(record, StepRecord)]
        if resends > 3 or not steps or min(steps) > commit.last + 1:
            raise LedgerGap(
                f"Redis holds step {commit.last} and checkpoint {commit.checkpoint_step}; the run remembers less"
            )
        log.warning("Redis lost its tail: sending again from step %d", commit.last + 1)
        for record in lost:
            del self._tail[type(record), record.step]
        self._outbox.extendleft(reversed(lost))

    def _without_redis(self, error: RedisUnavailable) -> None:
        if self._lost_at is None:
            self._lost_at = self._clock()
            log.warning("%d records wait: %s", len(self._outbox), error)
        if self._clock() - self._lost_at > self._patience:
            raise RedisLost(f"{self._patience:g} s without Redis, {len(self._outbox)} records wait: {error}") from error

    def _send_events(self) -> None:
        while self._waiting_events:
            try:
                self._events(*self._waiting_events[0])
            except RedisUnavailable:
                return
            self._waiting_events.pop(0)
