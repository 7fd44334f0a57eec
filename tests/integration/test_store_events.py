"""The stream of a job on a real Redis: nothing lost, each once, also over reconnections."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from services.store.errors import BadToken, NotFound, OutOfRange
from services.store.events import Entry
from services.store.records import CheckpointRecord, EventRecord, JobNotice, JobState, StepRecord
from services.store.store import Store
from tests.support.store_fixtures import running, store_of_a_ledger

store = pytest.fixture(store_of_a_ledger)


def step(number: int, attempt: int = 1) -> StepRecord:
    return StepRecord(number, attempt, nll_sum=1.0, weight_sum=1.0)


def test_everything_that_happens_is_in_the_stream_in_order(store: Store) -> None:
    job = running(store)
    checkpoint = CheckpointRecord("c", "p", 1, 1, probe_nll=1 / 3)
    store.ledger.commit_step(job.id, step(1))
    store.ledger.commit_checkpoint(job.id, checkpoint)
    store.events.append(job.id, "warning", "SLOW", "It is slow.", 1, fields={"seconds": "9"})
    store.jobs.finish(job.id, 1, JobState.SUCCEEDED)
    entries = store.events.read(job.id)
    shown = [
        (entry.kind, entry.value.type if isinstance(entry.value, EventRecord) else entry.value) for entry in entries
    ]
    assert shown == [
        ("event", "JOB_CREATED"),
        ("job", JobNotice(JobState.VALIDATING, 0, "")),
        ("job", JobNotice(JobState.QUEUED, 0, "h")),
        ("event", "JOB_QUEUED"),
        ("job", JobNotice(JobState.RUNNING, 1, "h")),
        ("event", "JOB_RUNNING"),
        ("step", step(1)),
        ("checkpoint", checkpoint),
        ("event", "CHECKPOINT_SAVED"),
        ("event", "SLOW"),
        ("event", "JOB_SUCCEEDED"),
        ("job", JobNotice(JobState.SUCCEEDED, 1, "h")),
    ]
    slow = entries[9].value
    assert isinstance(slow, EventRecord)
    assert (slow.id, slow.level, slow.message, slow.attempt, slow.fields) == (
        entries[9].id, "warning", "It is slow.", 1, {"seconds": "9"},
    )  # fmt: skip
    assert abs(slow.time - time.time()) < 60


def test_a_watcher_that_reconnects_twenty_times_sees_every_entry_once(store: Store) -> None:
    job = running(store)

    def act() -> None:
        for number in range(1, 101):
            store.ledger.commit_step(job.id, step(number))
        store.jobs.finish(job.id, 1, JobState.SUCCEEDED)

    actor = threading.Thread(target=act)
    actor.start()
    seen: list[Entry] = []
    reconnections = 0
    while True:
        for entry in store.events.watch(job.id, seen[-1].id if seen else "", deadline=60):
            seen.append(entry)
            if reconnections < 20 and len(seen) % 4 == 0:
                reconnections += 1
                break
        else:
            break
    actor.join()
    assert reconnections == 20
    assert seen == store.events.read(job.id)
    assert [entry.value.step for entry in seen if isinstance(entry.value, StepRecord)] == list(range(1, 101))
    assert isinstance(seen[-1].value, JobNotice)
    assert seen[-1].value.state is JobState.SUCCEEDED


def test_watching_ends_after_the_terminal_state_also_where_nothing_is_new(store: Store) -> None:
    job = running(store)
    store.jobs.finish(job.id, 1, JobState.SUCCEEDED)
    last = store.events.read(job.id)[-1].id
    began = time.monotonic()
    assert list(store.events.watch(job.id, last, deadline=60)) == []
    assert time.monotonic() - began < 50


def test_watching_goes_on_after_a_failure_that_was_resumed(store: Store) -> None:
    job = running(store)
    store.jobs.finish(job.id, 1, JobState.FAILED)
    store.jobs.resume(job.id)
    store.jobs.claim(job.id, 2, "w")
    store.jobs.finish(job.id, 2, JobState.SUCCEEDED)
    states = [
        entry.value.state for entry in store.events.watch(job.id, deadline=60) if isinstance(entry.value, JobNotice)
    ]
    assert states[-4:] == [JobState.FAILED, JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED]


def test_watching_stops_when_told_and_at_its_deadline(store: Store) -> None:
    job = running(store)
    stop = threading.Event()
    count = len(store.events.read(job.id))
    assert len(list(store.events.watch(job.id, deadline=2.0))) == count
    watcher = store.events.watch(job.id, stop=stop)
    for _ in range(count):
        next(watcher)
    stop.set()
    assert list(watcher) == []


def test_a_waiting_reader_gets_news_at_once(store: Store) -> None:
    job = running(store)
    last = store.events.read(job.id)[-1].id
    timer = threading.Timer(0.2, lambda: store.ledger.commit_step(job.id, step(1)))
    timer.start()
    entries: Sequence[Entry] = []
    while not entries:  # a wait ends after two seconds
        entries = store.events.read(job.id, last, block=5.0)
    timer.join()
    assert [entry.value for entry in entries] == [step(1)]


def test_ids_that_are_gone_unknown_or_nonsense_are_told_apart(store: Store) -> None:
    job = running(store)
    first, second = store.events.read(job.id)[:2]
    for number in range(1, 4):
        store.ledger.commit_step(job.id, step(number))
    store.redis.xtrim(f"tl:run:stream:{job.id}", minid=store.events.read(job.id)[3].id, approximate=False)
    for gone in (first.id, second.id):
        with pytest.raises(OutOfRange, match=f"events of job {job.id} after {gone} have expired"):
            store.events.read(job.id, gone)
    kept = store.events.read(job.id)
    assert store.events.read(job.id, kept[0].id) == kept[1:]
    with pytest.raises(BadToken, match="event id 'yesterday' was not given by this server"):
        store.events.read(job.id, "yesterday")
    told = int(kept[-1].id.partition("-")[0])
    assert store.events.read(job.id, f"{told + 1}-0") == []  # of another job, say, or of a second that Redis lost
    for tomorrow in (f"{told + 86_400_000}-0", "9999999999999999999-9999999999999999999"):
        with pytest.raises(BadToken, match=f"event id '{tomorrow}' lies in the future"):
            store.events.read(job.id, tomorrow)
    with pytest.raises(NotFound, match="there is no job job-x"):
        store.events.read("job-x")
    with pytest.raises(NotFound):
        store.events.append("job-x", "info", "X", "x")
    assert not store.redis.exists("tl:run:stream:job-x")


def test_events_are_listed_page_by_page_without_steps(store: Store) -> None:
    job = running(store)
    for number in range(1, 8):
        store.ledger.commit_step(job.id, step(number))
        store.events.append(job.id, "info", f"E{number}", "x")
    seen: list[str] = []
    token = ""
    while True:
        page = store.events.list(job.id, page_size=3, page_token=token)
        assert len(page.items) <= 3
        seen += [event.type for event in page.items]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["JOB_CREATED", "JOB_QUEUED", "JOB_RUNNING", *(f"E{number}" for number in range(1, 8))]
