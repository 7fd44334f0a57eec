"""The journal: records in order and once, through outages, gaps and fences. The lease beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from services.store.errors import Fenced, RedisUnavailable
from services.store.ledger import Commit, Outcome
from services.store.records import CheckpointRecord, Control, StepRecord
from services.trainer import journal as journal_module
from services.trainer.journal import LedgerGap, LedgerJournal, RedisLost
from services.trainer.lease import FENCED_EXIT, Lease


@pytest.fixture(autouse=True)
def an_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger in memory answers at once, and a busy machine may not: half a second would take it for a silent one."""
    monkeypatch.setattr(journal_module, "COMMIT_WAIT", 60.0)


def step(number: int) -> StepRecord:
    return StepRecord(step=number, attempt=1, nll_sum=float(number), weight_sum=1.0)


def checkpoint(number: int) -> CheckpointRecord:
    return CheckpointRecord(id=f"job-a1-s{number}", path="tinker://r/weights/x", step=number, attempt=1)


@dataclass
class MemoryLedger:
    """A ledger that keeps steps and can be away, lose its tail, or fence."""

    steps: list[int] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)
    away: bool = False
    silent: threading.Event | None = None  #: takes records and answers nothing until it is set
    fenced: bool = False
    control: Control = Control.NONE

    def _reach(self) -> None:
        if self.silent is not None and not self.silent.wait(60):
            raise RedisUnavailable("Redis can't be reached (Timeout reading from socket)")
        if self.away:
            raise RedisUnavailable("Redis can't be reached")

    def _answer(self, outcome: Outcome) -> Commit:
        last = self.steps[-1] if self.steps else 0
        return Commit(outcome, last, self.checkpoints[-1] if self.checkpoints else -1, self.control)

    def commit_step(self, job_id: str, record: StepRecord) -> Commit:
        self._reach()
        if self.fenced:
            return self._answer(Outcome.FENCED)
        last = self.steps[-1] if self.steps else 0
        if record.step > last + 1:
            return self._answer(Outcome.GAP)
        if record.step == last + 1:
            self.steps.append(record.step)
        return self._answer(Outcome.OK)

    def commit_checkpoint(self, job_id: str, record: CheckpointRecord) -> Commit:
        self._reach()
        if record.step > (self.steps[-1] if self.steps else 0):
            return self._answer(Outcome.GAP)
        if record.step not in self.checkpoints:
            self.checkpoints.append(record.step)
        return self._answer(Outcome.OK)


@dataclass
class Parts:
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    clock: list[float] = field(default_factory=lambda: [0.0])
    events: list[str] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    preempted: threading.Event = field(default_factory=threading.Event)
    lease: Lease = field(default_factory=lambda: Lease(lambda: Control.NONE, 15.0))

    @contextmanager
    def journal(self) -> Iterator[LedgerJournal]:
        with LedgerJournal(
            self.ledger,
            "job",
            lease=self.lease,
            preempted=self.preempted,
            patience=300.0,
            clock=lambda: self.clock[0],
            events=lambda _level, kind, _message, _fields: self._event(kind),
            saved=lambda record: self.saved.append(record.step),
        ) as journal:
            yield journal

    def _event(self, kind: str) -> None:
        if self.ledger.away:
            raise RedisUnavailable("Redis can't be reached")
        self.events.append(kind)


def put(journal: LedgerJournal, record: StepRecord) -> None:
    """Record a step and wait for what becomes of it."""
    journal.step(record)
    journal.drain()


def test_records_arrive_in_order() -> None:
    parts = Parts()
    with parts.journal() as journal:
        for number in (1, 2, 3):
            journal.step(step(number))
        journal.checkpoint(checkpoint(3))
        journal.drain()
    assert parts.ledger.steps == [1, 2, 3]
    assert parts.saved == [3]


def test_an_outage_is_bridged_and_told_afterwards() -> None:
    parts = Parts()
    with parts.journal() as journal:
        journal.step(step(1))
        parts.ledger.away = True
        journal.step(step(2))
        journal.checkpoint(checkpoint(2))
        journal.event("info", "EVALUATED", "x")
        parts.clock[0] = 299.0
        journal.step(step(3))
        assert parts.ledger.steps == [1]
        parts.ledger.away = False
        journal.step(step(4))
        journal.drain()
    assert parts.ledger.steps == [1, 2, 3, 4]
    assert parts.saved == [2]
    assert parts.events == ["EVALUATED", "REDIS_LOST"]


def test_an_outage_that_only_events_met_is_told_once() -> None:
    parts = Parts()
    with parts.journal() as journal:
        parts.ledger.away = True
        journal.event("info", "EVALUATED", "x")
        until(lambda: journal._lost_at is not None)
        parts.clock[0] = 200.0
        parts.ledger.away = False
        journal.drain()
    assert parts.events == ["EVALUATED", "REDIS_LOST"]


def test_a_ledger_that_stays_silent_holds_up_one_step_and_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts()
    with parts.journal() as journal:
        put(journal, step(1))
        parts.ledger.silent = threading.Event()
        monkeypatch.setattr(journal_module, "COMMIT_WAIT", 0.05)
        for number in range(2, 3_000):
            journal.step(step(number))
        journal.checkpoint(checkpoint(2_999))
        assert parts.ledger.steps == [1]
        parts.ledger.silent.set()
        journal.drain()
    assert parts.ledger.steps == list(range(1, 3_000))
    assert parts.saved == [2_999]
    assert parts.events == []  # it failed with nothing: it was slow


def test_only_so_many_records_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.trainer.journal.MOST_WAITING", 10)
    parts = Parts()
    with parts.journal() as journal:
        parts.ledger.away = True
        for number in range(1, 11):
            journal.step(step(number))
        more = threading.Thread(target=journal.step, args=(step(11),))
        more.start()
        assert len(journal._outbox) == 10
        parts.ledger.away = False
        more.join(60)
        journal.drain()
    assert parts.ledger.steps == list(range(1, 12))


def test_an_outage_that_outlasts_patience_ends_the_run() -> None:
    parts = Parts()
    with parts.journal() as journal:
        parts.ledger.away = True
        journal.step(step(1))
        parts.clock[0] = 301.0
        with pytest.raises(RedisLost, match="300 s without Redis, 1 record waiting: Redis can't be reached"):
            journal.step(step(2))


def test_a_silence_that_outlasts_patience_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMMIT_WAIT", 0.05)
    parts = Parts(ledger=MemoryLedger(silent=threading.Event()))
    with parts.journal() as journal:
        journal.step(step(1))
        parts.clock[0] = 301.0
        with pytest.raises(RedisLost, match="300 s without Redis, 1 record waiting: no answer"):
            journal.step(step(2))
        assert parts.ledger.silent is not None
        parts.ledger.silent.set()


def test_a_redis_that_lost_its_tail_is_sent_it_again() -> None:
    parts = Parts()
    with parts.journal() as journal:
        for number in range(1, 6):
            journal.step(step(number))
        journal.checkpoint(checkpoint(5))
        journal.step(step(6))
        parts.ledger.steps, parts.ledger.checkpoints = [1, 2, 3], []
        journal.step(step(7))
        journal.drain()
    assert parts.ledger.steps == [1, 2, 3, 4, 5, 6, 7]
    assert parts.ledger.checkpoints == [5]


def nine_steps_of_which_one_is_left(journal: LedgerJournal, parts: Parts) -> None:
    for number in range(1, 10):
        journal.step(step(number))
        journal.checkpoint(checkpoint(number))
    parts.ledger.steps, parts.ledger.checkpoints = [1], [1]


def test_a_redis_that_was_restored_from_a_copy_is_sent_all_that_came_since() -> None:
    parts = Parts()
    with parts.journal() as journal:
        nine_steps_of_which_one_is_left(journal, parts)
        put(journal, step(10))
    assert parts.ledger.steps == list(range(1, 11))
    assert parts.ledger.checkpoints == list(range(1, 10))


def test_a_redis_that_lost_more_than_is_remembered_ends_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MOST_KEPT", 3)
    parts = Parts()
    with parts.journal() as journal:
        nine_steps_of_which_one_is_left(journal, parts)
        with pytest.raises(LedgerGap, match="Redis holds step 1 and checkpoint 1; the run remembers less"):
            put(journal, step(10))


def test_a_fenced_commit_ends_the_attempt() -> None:
    parts = Parts()
    parts.ledger.fenced = True
    with parts.journal() as journal:
        with pytest.raises(Fenced, match="another attempt holds the job"):
            put(journal, step(1))
        journal.event("info", "LEFT", "events are written still")
    assert parts.events == ["LEFT"]


def test_a_wish_is_heard_from_commits_and_from_the_host() -> None:
    parts = Parts()
    with parts.journal() as journal:
        assert journal.control() is Control.NONE
        parts.preempted.set()
        assert journal.control() is Control.PREEMPT
        parts.ledger.control = Control.CANCEL
        journal.step(step(1))
        journal.drain()
        assert journal.control() is Control.CANCEL


def until(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(12_000):
        if condition():
            return
        done.wait(0.005)
    raise AssertionError("not in a minute")


def test_the_lease_is_renewed_every_third_of_its_life() -> None:
    renewals = threading.Semaphore(0)

    def renew() -> Control:
        renewals.release()
        return Control.PAUSE

    with Lease(renew, 0.03) as lease:
        for _ in range(3):
            assert renewals.acquire(timeout=60)
        until(lambda: lease.control is Control.PAUSE)
        lease.check()


def test_a_fenced_lease_ends_the_loop_and_then_the_process() -> None:
    left: list[int] = []

    def renew() -> Control:
        raise Fenced("attempt 1 no longer holds the job")

    lease = Lease(renew, 0.03, leave=left.append)
    lease._over.wait = lambda timeout: False  # type: ignore[method-assign]  # the grace is over at once
    with lease:
        until(lambda: bool(left))
        with pytest.raises(Fenced, match="no longer holds"):
            lease.check()
    assert left == [FENCED_EXIT]


def test_a_lease_that_is_given_back_is_no_reason_to_leave() -> None:
    left: list[int] = []
    asked = threading.Event()

    def renew() -> Control:
        asked.set()
        raise Fenced("attempt 1 no longer holds the job")

    lease = Lease(renew, 0.03, leave=left.append)
    lease.ending = True
    with lease:
        assert asked.wait(60)
        lease._thread.join(60)
        lease.check()
    assert left == []


def test_an_outage_does_not_end_the_lease_thread() -> None:
    answers = iter([RedisUnavailable("away"), RedisUnavailable("away"), Control.CANCEL])

    def renew() -> Control:
        answer = next(answers, Control.CANCEL)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with Lease(renew, 0.03) as lease:
        until(lambda: lease.control is Control.CANCEL)
