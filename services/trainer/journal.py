"""Write the loop's records into the ledger: in order, once, through outages of Redis, and beside the training.

A thread sends them. Records wait in `_outbox` until the ledger took them. Those that it took stay in `_tail`, back to
the checkpoint before the last one and further, as many as fit. A Redis that crashed may have lost its last second, and
one that was restored from a copy may lack more. It then answers "gap" and is sent them again. A Redis that refuses, or
takes bytes and stays silent, holds up the loop for COMMIT_WAIT, once.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from services.store.errors import Fenced, RedisUnavailable, StoreError
from services.store.ledger import Commit, Outcome
from services.store.records import CheckpointRecord, Control, StepRecord
from services.trainer.lease import Lease
from turnloom.plural import counted

Record = StepRecord | CheckpointRecord

COMMIT_WAIT = 0.5  #: seconds that the loop waits for an answer, so that it hears a request before its next step
MOST_WAITING = 10_000  #: records, about 2 KB each; with more the loop waits for room
MOST_KEPT = 10_000  #: records that the ledger took and may be sent again, beside those since the last two checkpoints
RETRY_PAUSE = 0.2  #: seconds between two attempts while Redis is away, and between two looks of a waiting loop
CLOSE_WAIT = 5.0  #: seconds in which the last events still have to arrive

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
    """A Journal (loop.py) on a ledger, and the context manager of the thread that sends."""

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
        """Prepare the journal; the thread starts with `with`.

        Args:
            ledger: where records go.
            job: its id.
            lease: kept by another thread; says when the attempt is over.
            preempted: set when this process is asked to leave.
            patience: seconds without Redis after which the run ends.
            clock: monotonic seconds.
            events: writes level, type, message, fields; called in the thread.
            saved: called in the thread with every checkpoint that the ledger took.
        """
        self._ledger = ledger
        self._job = job
        self._lease = lease
        self._preempted = preempted
        self._patience = patience
        self._clock = clock
        self._events = events
        self._saved = saved
        self._change = threading.Condition()  # guards what follows, but for the tail, which is the thread's own
        self._outbox: deque[Record] = deque()
        self._waiting_events: deque[tuple[str, str, str, dict[str, str]]] = deque()
        self._busy = False  # the thread works, also when both are empty
        self._lost_at: float | None = None  # when Redis stopped answering
        self._problem = ""  # what it failed with since
        self._failure: Exception | None = None  # ends the run
        self._closed = threading.Event()
        self._tail: dict[tuple[type, int], Record] = {}
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let the last events arrive, and end the thread."""
        with self._change:
            self._change.wait_for(lambda: self._idle() or self._lost_at is not None, CLOSE_WAIT)
            self._closed.set()
            self._change.notify_all()

    def step(self, record: StepRecord) -> None:
        """Record one step. Raises Fenced, RedisLost, LedgerGap, and what `saved` raised."""
        self._put(record)

    def checkpoint(self, record: CheckpointRecord) -> None:
        """Record one checkpoint. Raises as step."""
        self._put(record)

    def control(self) -> Control:
        """Return the last known request; a person's takes precedence over this host's. Raises as step."""
        self._check()
        if self._lease.control is not Control.NONE:
            return self._lease.control
        return Control.PREEMPT if self._preempted.is_set() else Control.NONE

    def event(self, level: str, kind: str, message: str, **fields: str) -> None:
        """Record an event, and log it. Kept back while Redis is away."""
        log.log(logging.getLevelNamesMapping()[level.upper()], "%s: %s", kind, message)
        with self._change:
            self._waiting_events.append((level, kind, message, fields))
            self._settle()

    def drain(self) -> None:
        """Wait until Redis has taken all records: the next action needs them in the ledger. Raises as step."""
        with self._change:
            while not self._idle():
                self._check()
                self._change.wait(RETRY_PAUSE)
        self._check()

    # The loop's side.

    def _put(self, record: Record) -> None:
        self._check()
        with self._change:
            while len(self._outbox) >= MOST_WAITING:
                self._change.wait(RETRY_PAUSE)
                self._check()
            self._outbox.append(record)
            self._settle()
        self._check()

    def _settle(self) -> None:
        """Wake the thread and wait for its answers, COMMIT_WAIT at most; not at all while Redis is away."""
        self._change.notify_all()
        if not self._change.wait_for(lambda: not self._waiting() or self._lost_at is not None, COMMIT_WAIT):
            self._lose("")

    def _waiting(self) -> bool:
        return bool(self._outbox or self._waiting_events)

    def _idle(self) -> bool:
        return not self._waiting() and not self._busy

    def _check(self) -> None:
        """Raise what ends the run."""
        self._lease.check()
        if self._failure is not None:
            raise self._failure
        lost_at = self._lost_at
        if lost_at is not None and self._clock() - lost_at > self._patience:
            waiting = f"{counted(len(self._outbox), 'record')} waiting"
            raise RedisLost(f"{self._patience:g} s without Redis, {waiting}: {self._problem or 'no answer'}")

    # The thread's side.

    def _work(self) -> None:
        while not self._closed.is_set():
            try:
                with self._change:
                    self._busy = False
                    self._change.notify_all()
                    self._change.wait_for(lambda: self._closed.is_set() or self._waiting())
                    self._busy = True
                self._send_records()
                self._send_events()
            except RedisUnavailable as error:
                with self._change:
                    self._lose(str(error))
                self._closed.wait(RETRY_PAUSE)
            except Exception as error:  # the loop raises it
                with self._change:
                    self._failure = error
                    self._outbox.clear()

    def _lose(self, problem: str) -> None:
        if self._lost_at is None:
            self._lost_at = self._clock()
            waiting = f"{counted(len(self._outbox), 'record')} waiting"
            log.warning("%s: %s", waiting, problem or f"no answer in {COMMIT_WAIT:g} s")
            self._change.notify_all()
        self._problem = problem or self._problem

    def _found(self) -> None:
        """Tell an outage that is over, for Redis took something."""
        with self._change:
            if self._lost_at is None:
                return
            if self._problem:  # else it was slow, and told in the log
                message = f"Redis was away for {self._clock() - self._lost_at:.0f} s."
                self._waiting_events.append(("warning", "REDIS_LOST", message, {}))
                log.warning("REDIS_LOST: %s", message)
            self._lost_at, self._problem = None, ""

    def _send_records(self) -> None:
        resends, sent = 0, False
        while self._outbox:  # this thread alone takes away
            record = self._outbox[0]
            commit = self._commit(record)
            if commit.outcome is Outcome.FENCED:
                raise Fenced(f"{self._job}: another attempt holds the job")
            if commit.outcome is Outcome.GAP:
                resends += 1
                self._rewind(commit, resends)
                continue
            self._lease.heard(commit.control)
            with self._change:
                self._outbox.popleft()
                self._change.notify_all()
            self._remember(record)
            sent = True
        if sent:
            self._found()

    def _send_events(self) -> None:
        while self._waiting_events:
            try:
                self._events(*self._waiting_events[0])
            except RedisUnavailable:
                raise
            except StoreError as error:  # its job is deleted, say: nothing that the loop could mend
                log.warning("an event is not written: %s", error)
            with self._change:
                self._waiting_events.popleft()
            self._found()

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
            kept = list(self._tail.items())[-MOST_KEPT:]
            if len(saved) > 2 and len(kept) < len(self._tail):
                oldest = min(saved[-2], kept[0][1].step)
                self._tail = {place: one for place, one in self._tail.items() if one.step >= oldest}
            self._saved(record)

    def _rewind(self, commit: Commit, resends: int) -> None:
        """Put records that the ledger has lost back into the outbox.

        Those of its last step and checkpoint are sent, too: it may have lost an evaluation that came to them later.
        """
        lost = [
            record
            for record in self._tail.values()
            if record.step >= (commit.last if isinstance(record, StepRecord) else commit.checkpoint_step)
        ]
        steps = [record.step for record in (*lost, *self._outbox) if isinstance(record, StepRecord)]
        if resends > 3 or not steps or min(steps) > commit.last + 1:
            raise LedgerGap(
                f"Redis holds step {commit.last} and checkpoint {commit.checkpoint_step}; the run remembers less"
            )
        log.warning("Redis lost its tail: sending again from step %d", commit.last + 1)
        for record in lost:
            del self._tail[type(record), record.step]
        with self._change:
            self._outbox.extendleft(reversed(lost))
