"""Copies under way while a job trains: one at a time, the newest next, none after the end."""

from __future__ import annotations

import threading

from services.store.errors import Fenced, NotFound, StoreUnavailable
from services.store.records import CheckpointRecord
from services.trainer.aside import Outage
from services.trainer.mirroring import Mirror


def unheard() -> Outage:
    return Outage(lambda _sentence: None)


def saved(step: int) -> CheckpointRecord:
    return CheckpointRecord(id=f"c{step}", path="", step=step, attempt=1)


class Copier:
    """A store that takes a copy when the test lets it."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.copied: list[int] = []
        self.fail: Exception | None = None
        self.under_way = 0
        self.most = 0

    def __call__(self, checkpoint: CheckpointRecord) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.began.release()
        assert self.may_end.acquire(timeout=30)
        self.under_way -= 1
        if self.fail is not None:
            raise self.fail
        self.copied.append(checkpoint.step)

    def wait_until_it_begins(self) -> None:
        assert self.began.acquire(timeout=30)


def test_the_newest_goes_next_and_one_is_under_way_at_most() -> None:
    copier = Copier()
    mirror = Mirror(copier, unheard())
    mirror.offer(saved(0))
    copier.wait_until_it_begins()
    for step in range(1, 6):
        mirror.offer(saved(step))
    copier.may_end.release(2)
    copier.wait_until_it_begins()
    mirror.close(30)
    assert copier.copied == [0, 5]
    assert copier.most == 1
    mirror.offer(saved(6))
    assert copier.copied == [0, 5]


def test_a_copy_that_fails_is_tried_again_and_gives_way_to_a_newer_one() -> None:
    copier = Copier()
    copier.fail = StoreUnavailable("away")
    mirror = Mirror(copier, unheard(), again=0.01)
    mirror.offer(saved(1))
    for _ in range(2):
        copier.wait_until_it_begins()
        copier.may_end.release()
    copier.wait_until_it_begins()
    copier.fail = None
    mirror.offer(saved(2))
    copier.may_end.release(2)
    copier.wait_until_it_begins()
    mirror.close(30)
    assert copier.copied == [1, 2]


def test_a_checkpoint_that_is_gone_is_passed_over_and_a_fenced_attempt_copies_no_more() -> None:
    copier = Copier()
    mirror = Mirror(copier, unheard(), again=60)
    copier.fail = NotFound("gone")
    mirror.offer(saved(1))
    copier.wait_until_it_begins()
    mirror.offer(saved(2))
    copier.may_end.release()
    copier.wait_until_it_begins()
    copier.fail = Fenced("another")
    copier.may_end.release()
    mirror.close(30)
    assert copier.copied == []


def test_an_outage_is_told_once_and_again_after_a_copy_went_through() -> None:
    told: list[str] = []
    copier = Copier()
    mirror = Mirror(copier, Outage(told.append), again=0.01)
    copier.fail = StoreUnavailable("the bucket is silent")
    mirror.offer(saved(1))
    for _ in range(2):
        copier.wait_until_it_begins()
        copier.may_end.release()
    copier.wait_until_it_begins()
    assert told == ["the bucket is silent; it is tried again."]
    copier.fail = None
    mirror.offer(saved(2))
    copier.may_end.release()
    copier.wait_until_it_begins()
    copier.fail = StoreUnavailable("silent once more")
    copier.may_end.release()
    copier.wait_until_it_begins()
    assert told[1:] == ["silent once more; it is tried again."]
    copier.fail = None
    copier.may_end.release()
    mirror.close(30)
