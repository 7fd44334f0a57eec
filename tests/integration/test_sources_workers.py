"""Shards over several workers: one that is killed loses nothing, and the dataset is the same however it was made."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from services.preprocess.datasets.sources.pieces import SHARD_ROWS
from services.store import keys
from services.store.dataset_work import DatasetWork
from services.store.store import Store
from tests.support.api_calls import options
from tests.support.source_runs import Sources, poll, write_lines
from turnloom.v1 import datasets_pb2 as pb

DATED = options(date="2026-01-02")


def holders(store: Store, dataset: str) -> dict[str, int]:
    """Which process holds which task now."""
    table = store.redis.hgetall(keys.work(dataset))
    return {name[7:]: int(who.split(":")[1]) for name, who in table.items() if name.startswith("holder:")}


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_make_the_dataset_of_one_worker(sources: Sources, store: Store) -> None:
    path = write_lines(sources.roots / "chats.jsonl", 3 * SHARD_ROWS)
    first = sources.workers.start()
    alone = sources.ended(sources.create(path, options=DATED), 200)
    assert alone.state == pb.DATASET_STATE_READY, alone.error
    assert (alone.shards, alone.shards_done, alone.conversations) == (3, 3, 3 * SHARD_ROWS)
    second = sources.workers.start()
    asked = sources.create(path, options=DATED)
    killed: list[int] = []

    def one_was_killed_at_its_shard() -> bool:
        shards = {pid for task, pid in holders(store, asked.id).items() if task.isdigit()}
        for worker in (first, second):
            busy = shards.intersection(children(worker.pid))
            if busy:
                worker.send_signal(signal.SIGKILL)
                killed.extend(busy)
                return True
        return False

    poll(one_was_killed_at_its_shard)
    made = sources.ended(asked, 200)
    assert killed
    assert made.state == pb.DATASET_STATE_READY, made.error
    assert made.sha256 == alone.sha256
    assert all(not Path(f"/proc/{pid}").exists() for pid in killed), "a job outlived its worker"


def test_a_cancelled_dataset_is_given_up_and_leaves_nothing(sources: Sources, store: Store, tmp_path: Path) -> None:
    path = write_lines(sources.roots / "chats.jsonl", 4 * SHARD_ROWS)  # so that it is not READY before it is cancelled
    sources.workers.start()
    asked = sources.create(path)
    poll(lambda: "0" in holders(store, asked.id))
    cancelled = sources.api.datasets.CancelDataset(pb.CancelDatasetRequest(id=asked.id), timeout=30).dataset
    assert cancelled.state == pb.DATASET_STATE_CANCELLED
    poll(lambda: store.redis.smembers(keys.MAKING) == set())
    assert not list((tmp_path / "store").rglob("*.arrow"))
    assert store.redis.keys("tl:api:work*") == []


def test_a_task_whose_worker_dies_each_time_ends_the_dataset(sources: Sources, store: Store) -> None:
    asked = sources.create(write_lines(sources.roots / "chats.jsonl", 3))
    work = DatasetWork(store.redis, lease_ttl=0.1)
    for attempt in range(3):
        poll(lambda: work.overdue(asked.id, "plan"))
        work.lost(asked.id)
        assert work.claim(asked.id, "plan", f"host:{attempt}:dead") is not None
    sources.workers.start()
    failed = sources.failed(asked)
    assert failed.error.code == "TASK_GIVEN_UP"
    assert failed.error.message == (
        "Cutting the source into shards was begun 3 times and never finished: "
        "its worker was killed each time, or had too little memory"
    )


def test_a_renewal_that_comes_behind_the_end_of_a_task_does_not_bring_it_back(sources: Sources, store: Store) -> None:
    asked = sources.create(write_lines(sources.roots / "chats.jsonl", 3))
    work = DatasetWork(store.redis)
    assert work.claim(asked.id, "plan", "host:1:a") is not None
    work.done(asked.id, "plan", "host:1:a", following={"0": "{}"})
    work.renew(asked.id, "plan", "host:1:a", 0)
    assert store.redis.zrange(keys.work_due(asked.id), 0, -1) == ["0"]
