"""Shards over several workers: one that is killed loses nothing, and the dataset is the same however it was made."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from rq.job import Job
from rq.registry import FinishedJobRegistry
from rq.serializers import JSONSerializer

from services.preprocess.datasets.sources import dispatch
from services.preprocess.datasets.sources.dispatch import FUNCTION
from services.preprocess.datasets.sources.pieces import SHARD_ROWS
from services.store import keys
from services.store.dataset_work import DatasetWork
from services.store.queueing.queues import PREPROCESS_QUEUE
from services.store.queueing.tickets import Tickets
from services.store.store import Store
from tests.support.api_calls import options
from tests.support.source_runs import Sources, chat_lines, poll, write_lines
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


def outcomes(store: Store, functions: str) -> list[str]:
    """What RQ keeps of the tickets that worker processes ran, in the order of their ends."""
    registry = FinishedJobRegistry(PREPROCESS_QUEUE, connection=store.rq, serializer=JSONSerializer)
    jobs = (Job.fetch(name, connection=store.rq, serializer=JSONSerializer) for name in registry.get_job_ids())
    done = [job for job in jobs if job.func_name == functions]
    return [str(job.return_value()) for job in sorted(done, key=lambda job: job.ended_at)]


def test_one_process_goes_on_with_the_tasks_of_its_dataset(sources: Sources, store: Store) -> None:
    asked = sources.create(write_lines(sources.roots / "chats.jsonl", 2 * SHARD_ROWS + 1))
    sources.workers.start()
    made = sources.ended(asked)
    assert (made.state, made.shards_done) == (pb.DATASET_STATE_READY, 3), made.error
    poll(lambda: outcomes(store, FUNCTION) == ["done, done, done, done, done"])  # plan, three shards, merge


def test_a_process_leaves_the_tickets_of_others_in_their_order(sources: Sources, store: Store) -> None:
    asked = [sources.create(write_lines(sources.roots / f"{name}.jsonl", 3)) for name in "ab"]
    sources.workers.start()
    assert all(sources.ended(dataset).state == pb.DATASET_STATE_READY for dataset in asked)
    poll(lambda: outcomes(store, FUNCTION) == ["done"] * 6)  # plan, shard and merge of each, by turns


def test_a_worker_that_is_asked_to_stop_ends_after_the_task_in_work(
    sources: Sources, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets = Tickets(store.rq)
    for task in ("0", "1"):
        tickets.call(PREPROCESS_QUEUE, FUNCTION, {"dataset_id": "ds", "task": task}, timeout=5)
    monkeypatch.setattr(dispatch, "_STOPPING", bytearray(1))
    assert dispatch.next_task(tickets, "other") is None
    assert dispatch.next_task(tickets, "ds") == "0"
    dispatch.begin_no_more()
    assert dispatch.next_task(tickets, "ds") is None
    assert tickets.depth(PREPROCESS_QUEUE) == 1


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


def test_what_follows_all_parts_of_a_source_begins_with_the_last_of_them(sources: Sources, store: Store) -> None:
    asked = sources.create(write_lines(sources.roots / "chats.jsonl", 3))
    work = DatasetWork(store.redis)
    assert work.claim(asked.id, "plan", "host:1:a") is not None
    work.note(asked.id, "choose", '{"parts": 3}')
    work.done(asked.id, "plan", "host:1:a", following={f"scan-{number}": "{}" for number in range(3)})
    for left in ([f"scan-{number}" for number in (0, 2)], ["scan-0"], ["choose"]):
        task = next(name for name in ("scan-1", "scan-2", "scan-0") if name in _due(store, asked.id))
        assert work.claim(asked.id, task, "host:1:b") is not None
        work.done(asked.id, task, "host:1:b", following={"choose": ""}, last_of="scan-")
        assert _due(store, asked.id) == left
    claimed = work.claim(asked.id, "choose", "host:1:c")
    assert claimed is not None
    assert claimed.argument == '{"parts": 3}'
    assert work.claim(asked.id, "scan-1", "host:1:d") is None, "a part is looked at once"


def _due(store: Store, dataset: str) -> list[str]:
    return sorted(store.redis.zrange(keys.work_due(dataset), 0, -1))


@pytest.mark.slow
def test_a_worker_killed_at_a_part_of_a_large_source_loses_nothing(sources: Sources, store: Store) -> None:
    small, large = sources.roots / "small.jsonl", sources.roots / "large.jsonl"
    rows = [json.loads(line) for line in chat_lines(600)] * 2
    small.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with large.open("w") as file:
        file.writelines(json.dumps({**row, "unused": "x" * 150_000}) + "\n" for row in rows)
    workers = [sources.workers.start()]
    alone = sources.ended(sources.create(small, options=DATED, deduplicate=pb.DEDUPLICATE_EXACT))
    workers.append(sources.workers.start())
    asked = sources.create(large, options=DATED, deduplicate=pb.DEDUPLICATE_EXACT)

    def one_was_killed_at_a_part() -> bool:
        parts = {pid for task, pid in holders(store, asked.id).items() if task.startswith("scan-")}
        for worker in workers:
            if parts.intersection(children(worker.pid)):
                worker.send_signal(signal.SIGKILL)
                return True
        return False

    poll(one_was_killed_at_a_part)
    made = sources.ended(asked)
    assert made.state == pb.DATASET_STATE_READY, made.error
    assert (made.sha256, made.conversations, made.left_out.duplicates) == (alone.sha256, 600, 600)
