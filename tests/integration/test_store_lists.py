"""Lists with filters on a real Redis: what a full scan would find, and no record read that does not match."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from services.store.errors import IllegalEdge
from services.store.pages import Page, index_owned
from services.store.records import DatasetRecord, DatasetState, ErrorRecord, JobSpec, JobState
from services.store.store import Store, open_store

OWNERS = ("anna", "ben", "")
USED = DatasetRecord("ds", "{}", state=DatasetState.READY, sha256="s", uri="/s/a")
MANY = 300  #: datasets and jobs that a filter leaves out


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = open_store(redis_url)
    yield store
    store.close()


def dataset(number: int, owner: str, state: DatasetState = DatasetState.CREATING) -> DatasetRecord:
    return DatasetRecord(f"ds-{number}", "{}", owner=owner, state=state, create_time=1000.0 + number)


def ids(page: Page[DatasetRecord]) -> list[str]:
    return [item.id for item in page.items]


def paged(store: Store, state: DatasetState | None, owner: str | None, size: int) -> list[str]:
    """All pages of a list; none of them is empty unless the list is."""
    found: list[str] = []
    token = ""
    while True:
        page = store.datasets.list(page_size=size, page_token=token, state=state, owner=owner)
        assert page.items or not token, "a token led to an empty page"
        found += ids(page)
        token = page.next_page_token
        if not token:
            return found


def scanned(store: Store, state: DatasetState | None, owner: str | None) -> list[str]:
    """What reading every record finds."""
    every = [store.datasets.get(name) for name in store.redis.zrevrange("tl:api:datasets", 0, -1)]
    return [one.id for one in every if state in (None, one.state) and owner in (None, one.owner)]


def records_read(store: Store) -> int:
    found = store.redis.info("commandstats").get("cmdstat_hgetall", {"calls": 0})
    return int(found["calls"])


def test_datasets_by_state_and_owner_are_those_of_a_full_scan(store: Store) -> None:
    for number in range(40):
        store.datasets.create(dataset(number, OWNERS[number % 3]))
    for number in range(0, 40, 2):
        made = replace(store.datasets.get(f"ds-{number}"), sha256=f"s{number}", uri="/s/a")
        store.datasets.ready(made)
        if number % 8 == 0:
            store.datasets.delete(f"ds-{number}")
    for number in range(1, 40, 4):
        store.datasets.fail(f"ds-{number}", ErrorRecord("X", "x"))
    store.datasets.cancel("ds-3")
    with pytest.raises(IllegalEdge):
        store.datasets.cancel("ds-2")
    store.datasets.create(replace(dataset(50, "anna", DatasetState.READY), sha256="whole", uri="/s/b"))

    def compare() -> None:
        for state, owner, size in product((None, *DatasetState), (None, *OWNERS, "nobody"), (1, 3, 100)):
            assert paged(store, state, owner, size) == scanned(store, state, owner), (state, owner, size)

    compare()  # before anything is indexed, as with an API that runs before its supervisor
    index_owned(store.redis)
    compare()
    store.redis.delete(*store.redis.keys("tl:api:state:*"))
    store.redis.set("tl:api:owned", 1)  # as the version before left it, whose indexes were by owner only
    compare()
    index_owned(store.redis)
    assert store.redis.keys("tl:api:state:*")
    compare()


@pytest.mark.parametrize("owner", [None, "anna"])
def test_a_list_of_datasets_reads_those_that_match(store: Store, owner: str | None) -> None:
    index_owned(store.redis)
    for number in range(MANY):
        store.datasets.create(replace(dataset(number, "anna", DatasetState.READY), sha256=f"s{number}", uri="/s/a"))
    for number in range(MANY, 2 * MANY):
        store.datasets.create(dataset(number, "ben"))
    for number in (3, 5, 200):
        store.datasets.create(dataset(10_000 + number, "anna"))
    begun = records_read(store)
    page = store.datasets.list(page_size=2, state=DatasetState.CREATING, owner="anna")
    assert ids(page) == ["ds-10200", "ds-10005"]
    rest = store.datasets.list(page_size=2, page_token=page.next_page_token, state=DatasetState.CREATING, owner="anna")
    assert (ids(rest), rest.next_page_token) == (["ds-10003"], "")
    assert records_read(store) - begun <= 4
    begun = records_read(store)
    assert store.datasets.list(state=DatasetState.FAILED, owner=owner).items == []
    assert records_read(store) == begun


def test_a_list_of_jobs_with_several_filters_reads_those_that_match(store: Store) -> None:
    store.jobs.index()
    store.datasets.create(USED)

    def make(owner: str, label: str) -> str:
        return store.jobs.create(JobSpec("m", "m", "ds", owner=owner, metadata={"run": label})).job.id

    for number in range(MANY):
        make("anna", f"{number}")
        make("ben", "best")
    wanted = [make("anna", "best") for _ in range(3)]
    store.jobs.queue(wanted[1], host="h", planned_steps=1)
    begun = records_read(store)
    found = store.jobs.list(states=(JobState.VALIDATING,), metadata={"run": "best"}, owner="anna")
    assert [job.id for job in found.items] == [wanted[2], wanted[0]]
    assert records_read(store) - begun <= 3


def paused(store: Store, rung: str = "") -> str:
    """A job that its owner paused; with a rung, a cell that waits there."""
    job = store.jobs.queue(store.jobs.create(JobSpec("m", "m", "ds")).job.id, host="h", planned_steps=2)
    assert store.jobs.claim(job.id, 1, "w", "h") is not None
    store.jobs.pause(job.id)
    store.redis.hset(f"tl:run:job:{job.id}", "rung", rung)
    store.jobs.finish(job.id, 1, JobState.PAUSED)
    return job.id


def commands_run(store: Store) -> int:
    """How many commands this Redis has run, but for those that ask it so."""
    found = store.redis.info("commandstats")
    return sum(int(one["calls"]) for name, one in found.items() if name != "cmdstat_info")


def test_a_look_for_cells_at_rungs_costs_those_that_are_there_and_no_other_paused_job(store: Store) -> None:
    store.datasets.create(USED)
    cell = [paused(store, "4" if number == 7 else "") for number in range(20)][7]
    begun = commands_run(store)
    assert [job.id for job in store.jobs.at_rungs()] == [cell]
    assert commands_run(store) - begun == 2  # the index, and the cell's record


def test_the_index_of_cells_at_rungs_loses_those_that_go_on_or_end(store: Store) -> None:
    store.datasets.create(USED)
    first, second, third = (paused(store, "4") for _ in range(3))
    assert [job.id for job in store.jobs.at_rungs()] == [first, second, third]
    store.jobs.resume(first, host="h")
    store.jobs.cancel(second)
    assert [job.id for job in store.jobs.at_rungs()] == [third]
    store.jobs.cancel(third)
    assert not store.redis.exists("tl:run:rungs")


def test_cells_that_an_older_worker_left_at_a_rung_are_indexed_again(store: Store) -> None:
    store.datasets.create(USED)
    cells = [paused(store, rung) for rung in ("", "4", "2")][1:]
    store.redis.delete("tl:run:rungs")
    store.jobs.index_rungs()
    assert [job.id for job in store.jobs.at_rungs()] == cells
