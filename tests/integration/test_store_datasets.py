"""Dataset and sweep records on a real Redis."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from services.store.errors import BadToken, IllegalEdge, InUse, NotFound, RequestMismatch
from services.store.pages import index_owned
from services.store.records import (
    DatasetRecord,
    DatasetState,
    ErrorRecord,
    Histogram,
    IssueRecord,
    JobSpec,
    SweepAxis,
    SweepRecord,
)
from services.store.store import Store, open_store

RECORD = DatasetRecord(
    "ds-1", '{"model":"m"}', owner="anna", model="m", metadata={"a": "b"}, length_histogram=Histogram((8,), (1, 2))
)
READY = replace(RECORD, state=DatasetState.READY, sha256="abc", uri="/s/abc.arrow", examples=3, weight_sum=0.1 + 0.2)


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = open_store(redis_url)
    yield store
    store.close()


def test_a_request_id_makes_one_dataset(store: Store) -> None:
    first = store.datasets.create(READY, request_id="r", content_hash="x")
    again = store.datasets.create(replace(READY, id="ds-2"), request_id="r", content_hash="x")
    assert (first.deduplicated, again.deduplicated, again.dataset.id) == (False, True, "ds-1")
    assert first.dataset == replace(READY, create_time=first.dataset.create_time, ready_time=first.dataset.ready_time)
    with pytest.raises(RequestMismatch, match="this request_id made ds-1 from other content; use a new request_id"):
        store.datasets.create(replace(READY, id="ds-3"), request_id="r", content_hash="y")
    assert store.datasets.find_request("anna", "r", "x") == first.dataset
    assert store.datasets.find_request("ben", "r", "x") is None
    with pytest.raises(RequestMismatch):
        store.datasets.find_request("anna", "r", "z")
    with pytest.raises(NotFound, match="there is no dataset ds-3"):
        store.datasets.get("ds-3")


def test_a_dataset_is_ready_only_with_all_shards(store: Store) -> None:
    store.datasets.create(RECORD)
    store.datasets.progress("ds-1", conversations_read=10, shards=3)
    assert store.datasets.shard_done("ds-1", 2, '{"uri": "c"}') == 1
    assert store.datasets.shard_done("ds-1", 2, '{"uri": "c"}') == 1
    assert store.datasets.shard_done("ds-1", 0, '{"uri": "a"}') == 2
    found = store.datasets.get("ds-1")
    assert (found.conversations_read, found.shards, found.shards_done) == (10, 3, 2)
    with pytest.raises(IllegalEdge, match="dataset ds-1 has 2 of 3 shards and can't become READY"):
        store.datasets.ready(READY)
    assert store.datasets.shard_done("ds-1", 1, '{"uri": "b"}') == 3
    assert list(store.datasets.shards("ds-1").items()) == [
        (0, '{"uri": "a"}'),
        (1, '{"uri": "b"}'),
        (2, '{"uri": "c"}'),
    ]
    ready = store.datasets.ready(READY)
    assert (ready.state, ready.weight_sum, ready.sha256) == (DatasetState.READY, 0.1 + 0.2, "abc")
    assert ready.ready_time > 0
    assert store.datasets.ready(ready) == ready, "a repeated call"
    assert store.datasets.shards("ds-1") == {}
    for call in (
        lambda: store.datasets.progress("ds-1", conversations_read=11),
        lambda: store.datasets.shard_done("ds-1", 1, "{}"),
    ):
        with pytest.raises(IllegalEdge, match="dataset ds-1 is READY, nobody waits for its rows any more"):
            call()
    with pytest.raises(IllegalEdge, match="dataset ds-1 is READY and can't become CANCELLED"):
        store.datasets.cancel("ds-1")


def test_a_failed_dataset_names_the_offender_and_a_cancelled_one_stops_its_maker(store: Store) -> None:
    store.datasets.create(RECORD)
    store.datasets.create(replace(RECORD, id="ds-2"))
    issues = [IssueRecord(index, "empty", "x") for index in range(60)]
    failed = store.datasets.fail("ds-1", ErrorRecord("BAD_ROW", "Row 3."), issues)
    assert (failed.state, failed.error, len(failed.issues)) == (
        DatasetState.FAILED,
        ErrorRecord("BAD_ROW", "Row 3."),
        50,
    )
    assert store.datasets.cancel("ds-2").state is DatasetState.CANCELLED
    with pytest.raises(IllegalEdge, match="dataset ds-2 is CANCELLED"):
        store.datasets.progress("ds-2", conversations_read=1)


def test_the_file_is_unwanted_with_the_last_record_of_its_content(store: Store) -> None:
    empty = set(store.redis.keys("*"))
    store.datasets.create(READY, request_id="r")
    store.datasets.create(replace(READY, id="ds-2"))
    job = store.jobs.create(JobSpec("m", "m", "ds-2")).job
    with pytest.raises(InUse, match=f"job {job.id} uses dataset ds-2 and isn't finished"):
        store.datasets.delete("ds-2")
    store.datasets.delete("ds-1")
    assert not store.unwanted.due(grace=0.0)
    store.jobs.reject(job.id, ErrorRecord("X", "x"))
    store.datasets.delete("ds-2")
    (file,) = store.unwanted.due(grace=0.0)
    assert file.uri == "/s/abc.arrow"
    store.jobs.delete(job.id)
    assert store.jobs.with_objects_left(0.0) == [job.id]
    store.jobs.objects_removed(job.id)
    store.unwanted.forget(file)
    assert set(store.redis.keys("*")) == empty
    store.datasets.create(RECORD)
    with pytest.raises(InUse, match="dataset ds-1 is being made; cancel it before it is deleted"):
        store.datasets.delete("ds-1")
    with pytest.raises(NotFound, match="there is no dataset ds-9"):
        store.datasets.delete("ds-9")


def test_a_job_whose_dataset_was_deleted_is_not_resumed(store: Store) -> None:
    store.datasets.create(READY)
    job = store.jobs.create(JobSpec("m", "m", "ds-1")).job
    store.jobs.queue(job.id, host="h", planned_steps=1)
    store.jobs.cancel(job.id)
    store.datasets.delete("ds-1")
    with pytest.raises(NotFound, match=f"job {job.id} needs ds-1, which was deleted"):
        store.jobs.resume(job.id)


def test_lists_of_an_owner_are_those_of_a_full_scan_and_hold_what_was_made_before_them(store: Store) -> None:
    def make(index: int) -> None:
        owner = "anna" if index % 3 else "ben"
        store.datasets.create(replace(RECORD, id=f"ds-{index}", owner=owner, create_time=1000.0 + index))
        sweep = SweepRecord(f"sweep-{index}", (), owner=owner, create_time=1000.0 + index)
        store.sweeps.create(sweep)

    def listed(owner: str | None) -> tuple[list[str], list[str]]:
        datasets = [item.id for item in store.datasets.list(owner=owner).items]
        return datasets, [item.id for item in store.sweeps.list(owner=owner).items if owner in (None, item.owner)]

    for index in range(6):
        make(index)
    before = {owner: listed(owner) for owner in (None, "anna", "ben", "nobody")}
    store.redis.delete(*store.redis.keys("tl:api:owned:*"))  # as an earlier version left it
    index_owned(store.redis)
    assert {owner: listed(owner) for owner in before} == before
    assert before["ben"] == (["ds-3", "ds-0"], ["sweep-3", "sweep-0"])
    make(6)
    store.datasets.cancel("ds-3")
    store.datasets.delete("ds-3")
    assert listed("ben") == (["ds-6", "ds-0"], ["sweep-6", "sweep-3", "sweep-0"])


def test_datasets_are_listed_newest_first_without_their_long_parts(store: Store) -> None:
    for index in range(5):
        made = replace(RECORD, id=f"ds-{index}", create_time=1000.0 + index)
        store.datasets.create(replace(made, state=DatasetState.READY, sha256="s") if index % 2 else made)
    first = store.datasets.list(page_size=2)
    assert [item.id for item in first.items] == ["ds-4", "ds-3"]
    assert first.items[0].length_histogram == Histogram()
    second = store.datasets.list(page_size=2, page_token=first.next_page_token)
    third = store.datasets.list(page_size=2, page_token=second.next_page_token)
    assert [item.id for item in [*second.items, *third.items]] == ["ds-2", "ds-1", "ds-0"]
    assert third.next_page_token == ""
    assert [item.id for item in store.datasets.list(state=DatasetState.READY).items] == ["ds-3", "ds-1"]
    with pytest.raises(BadToken, match="page_token 'x' was not given by this server"):
        store.datasets.list(page_token="x")


def test_watching_a_dataset_shows_changes_and_ends_with_the_final_record(store: Store) -> None:
    store.datasets.create(RECORD)
    seen: list[DatasetRecord] = []
    changed = threading.Event()

    def watch() -> None:
        for record in store.datasets.watch("ds-1", deadline=250):
            seen.append(record)
            changed.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in (5, 6):
        assert changed.wait(60)
        changed.clear()
        store.datasets.progress("ds-1", conversations_read=number)
    assert changed.wait(60)
    store.datasets.ready(READY)
    watcher.join(60)
    assert [(item.state, item.conversations_read) for item in seen] == [
        (DatasetState.CREATING, 0), (DatasetState.CREATING, 5), (DatasetState.CREATING, 6), (DatasetState.READY, 0),
    ]  # fmt: skip
    assert len(list(store.datasets.watch("ds-1"))) == 1
    with pytest.raises(NotFound):
        next(store.datasets.watch("ds-none"))


def test_a_sweep_keeps_its_cells_in_order(store: Store) -> None:
    record = SweepRecord("sweep-1", (SweepAxis("lora_rank", (8.0, 16.0)),), "ranks", "anna", cells=2)
    first = store.sweeps.create(record, request_id="r", content_hash="x")
    assert store.sweeps.create(replace(record, id="sweep-2"), request_id="r", content_hash="x").sweep == first.sweep
    with pytest.raises(RequestMismatch):
        store.sweeps.create(record, request_id="r", content_hash="y")
    for job in ("job-b", "job-a", "job-b"):
        store.sweeps.add_job("sweep-1", job)
    assert store.sweeps.get("sweep-1") == replace(first.sweep, jobs=("job-b", "job-a"))
    store.sweeps.create(replace(record, id="sweep-2", create_time=first.sweep.create_time + 1))
    page = store.sweeps.list(page_size=1)
    assert [item.id for item in page.items] == ["sweep-2"]
    last = store.sweeps.list(page_size=1, page_token=page.next_page_token)
    assert ([item.id for item in last.items], last.next_page_token) == (["sweep-1"], "")
    with pytest.raises(NotFound, match="there is no sweep sweep-9"):
        store.sweeps.get("sweep-9")
    with pytest.raises(NotFound, match="there is no such sweep"):
        store.sweeps.add_job("sweep-9", "job-a")
