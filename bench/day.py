"""A day of 1,000 jobs in a Redis of 1 GB, in minutes: `python -m bench.day`. What stays, what leaves, what it costs.

Runs the real scripts, supervisor and archives on a Redis with maxmemory 1gb and noeviction. Compressed: an hour of the
day takes `--hour` seconds (so does a ledger's stay), and the 2,000 steps of a job are copied by Redis (COPY) from one
job whose steps were committed one by one. Before the day, Redis holds what earlier days left: the ledgers of a week's
FAILED and CANCELLED jobs, and the records of `--history` jobs. Beside the day 1,000 jobs wait in the queue.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, cast

from bench.program import DEV, NO_REDIS, end, libraries, usage

PROGRAM: Final = usage("bench.day", __doc__)
PROGRAM.add_argument("--jobs", type=int, default=1000, help="of the day")
PROGRAM.add_argument("--steps", type=int, default=2000, help="of a job")
PROGRAM.add_argument("--history", type=int, default=30_000, help="records of ended jobs that Redis holds before")
PROGRAM.add_argument("--waiting", type=int, default=1000, help="jobs that wait all day")
PROGRAM.add_argument("--hour", type=float, default=10.0, help="seconds that an hour of the day takes")

with libraries(DEV, __name__, PROGRAM):
    from bench.ledger import step
    from bench.pool import HOSTS, OWNERS, SPEC, beat
    from services.store import keys
    from services.store.records import CheckpointRecord, JobRecord, JobSpec, JobState
    from services.store.store import Store, open_store
    from services.trainer.supervision.supervisor import Supervisor, SupervisorSettings
    from tests.support.redis_fixtures import RedisServer, redis_program

MEMORY: Final = 10**9  #: bytes, `maxmemory`
FAILED: Final = 20  #: one job in so many fails, and keeps its ledger for a week
RUNNING: Final = 20  #: jobs whose ledgers grow at a time
SAMPLE: Final = 25  #: jobs between two samples of memory and times
WEEK: Final = 7
LEASE: Final = 3600.0  #: seconds; workers are records here, and none renews


@dataclass
class Seen:
    """What the day showed."""

    memory: list[int] = field(default_factory=list)  #: bytes that Redis used
    #: Seconds by the clock and in CPU of this process, of supervisor's rounds ...
    rounds: list[tuple[float, float]] = field(default_factory=list)
    pages: list[tuple[float, float]] = field(default_factory=list)  #: ... pages of ListJobs with 100 jobs ...
    archives: list[tuple[float, float]] = field(default_factory=list)  #: ... and of archiving what has ended

    def time(self, taken: list[tuple[float, float]], act: Callable[[], object]) -> None:
        """Note how long a call takes, by the clock and in CPU of this process."""
        began, worked = time.perf_counter(), time.process_time()
        act()
        taken.append((time.perf_counter() - began, time.process_time() - worked))


@contextmanager
def opened() -> Iterator[tuple[Store, str, str]]:
    """A store on a Redis with 1 GB and a folder; with Redis' URL and the folder."""
    program = redis_program()
    if program is None:
        end(NO_REDIS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "redis").mkdir()
        server = RedisServer(program, folder / "redis")
        server.start()
        store = open_store(server.url, str(folder / "store"), lease_ttl=LEASE)
        store.redis.config_set("maxmemory", str(MEMORY))
        store.redis.config_set("maxmemory-policy", "noeviction")
        try:
            yield store, server.url, str(folder / "store")
        finally:
            store.close()
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)


def begun(store: Store, spec: JobSpec) -> JobRecord:
    """A job that a worker has claimed."""
    job = store.jobs.create(spec).job
    store.jobs.queue(job.id, host="h0", planned_steps=0)
    store.jobs.claim(job.id, 1, "bench", "h0")
    store.ledger.commit_checkpoint(job.id, CheckpointRecord(f"{job.id}-s0", "p", 0, 1))
    return job


def template(store: Store, steps: int) -> JobRecord:
    """A job with so many committed steps."""
    job = begun(store, SPEC)
    for number in range(1, steps + 1):
        store.ledger.commit_step(job.id, step(number))
    return store.jobs.get(job.id)


def trained(store: Store, job: JobRecord, like: JobRecord) -> None:
    """Give a job the ledger of another: a copy that Redis makes, of the same size."""
    for key in (keys.stream, keys.series, keys.tests):
        store.redis.copy(key(like.id), key(job.id), replace=True)
    store.redis.hset(keys.job(job.id), mapping={"step": like.step, "effective_steps": like.step})


def ended(store: Store, job: JobRecord, state: JobState) -> None:
    """End a claimed job."""
    if state is JobState.SUCCEEDED:
        store.jobs.finish(job.id, 1, state)
    else:
        store.jobs.cancel(job.id)
        store.jobs.finish(job.id, 1, state)


def earlier_days(store: Store, url: str, folder: str, like: JobRecord, per_day: int, history: int) -> None:
    """What is in Redis when the day begins."""
    for number in range(history):
        job = store.jobs.create(replace(SPEC, owner=f"owner-{number % OWNERS}")).job
        store.jobs.queue(job.id, host="", planned_steps=like.step)
        store.jobs.cancel(job.id)
        store.jobs.archived(store.jobs.get(job.id), "none", 0.001)
    for _ in range(WEEK * per_day // FAILED):
        job = begun(store, replace(SPEC, owner="owner-0"))
        trained(store, job, like)
        ended(store, job, JobState.CANCELLED)
    Supervisor(store, SupervisorSettings(url, folder)).archive()


def day(store: Store, url: str, folder: str, like: JobRecord, jobs: int, hour: float) -> Seen:
    """Let so many jobs pass; returns what was seen."""
    seen = Seen()
    settings = SupervisorSettings(
        url, folder, lease_ttl=LEASE, host_lost=1e9, retention_done=hour, archive_after=hour / 120
    )
    supervisor = Supervisor(store, settings)
    pace, began = 24 * hour / jobs, time.monotonic()
    running: list[JobRecord] = []
    for number in range(jobs):
        job = begun(store, replace(SPEC, owner=f"owner-{number % OWNERS}"))
        trained(store, job, like)
        running.append(job)
        if len(running) > RUNNING:
            state = JobState.CANCELLED if number % FAILED == 0 else JobState.SUCCEEDED
            ended(store, running.pop(0), state)
        seen.time(seen.archives, supervisor.archive)
        if number % SAMPLE == 0:
            beat(store)
            _make_room(store)
            seen.time(seen.rounds, supervisor.round)
            seen.time(seen.pages, lambda: store.jobs.list(page_size=100))
            seen.memory.append(cast(int, store.redis.info("memory")["used_memory"]))
        threading.Event().wait(max(0.0, began + (number + 1) * pace - time.monotonic()))
    read_back(store, like)
    return seen


def _make_room(store: Store) -> None:
    """End one job that was given to a host, so that the next round has one to give; another takes its place."""
    placed = store.jobs.get_many(store.pool.placed())
    for job in [one for one in placed if one.state is JobState.QUEUED][:1]:
        store.jobs.cancel(job.id)
        store.jobs.queue(store.jobs.create(job.spec).job.id, host="", planned_steps=0)


def read_back(store: Store, like: JobRecord) -> None:
    """Prove that ledgers have left Redis and are read as before."""
    gone = [job for job in store.jobs.list(states=[JobState.SUCCEEDED], page_size=1000).items if job.archive_uri]
    gone = [job for job in gone if not store.redis.exists(keys.stream(job.id), keys.series(job.id))]
    assert gone, "no ledger has left Redis"
    for job in (gone[0], gone[-1]):
        steps = store.ledger.steps(job.id, 1, like.step)
        assert [one.nll_sum for one in steps] == [one.nll_sum for one in store.ledger.steps(like.id, 1, like.step)]
    print(f"{len(gone)} ledgers of the day have left Redis; their steps are read from Parquet, bit for bit")


def shown(name: str, taken: list[tuple[float, float]]) -> None:
    """Print medians and the slowest, milliseconds."""
    clock, worked = ([1e3 * value for value in column] for column in zip(*taken, strict=True))
    print(
        f"{name:24} median {statistics.median(clock):7.1f} ms, {statistics.median(worked):6.1f} of CPU here;"
        f" slowest {max(clock):7.1f} ms"
    )


def main() -> None:
    """Print the table."""
    options = PROGRAM.parse_args()
    with opened() as (store, url, folder):
        store.redis.hset("tl:api:dataset:ds", "state", "ready")
        beat(store)
        like = template(store, options.steps)
        earlier_days(store, url, folder, like, options.jobs, options.history)
        for number in range(options.waiting):
            spec = replace(SPEC, owner=f"owner-{number % OWNERS}")
            store.jobs.queue(store.jobs.create(spec).job.id, host="", planned_steps=options.steps)
        before = cast(int, store.redis.info("memory")["used_memory"])
        version = store.redis.info("server")["redis_version"]
        print(f"Redis {version}, maxmemory {MEMORY / 1e9:g} GB, noeviction; {HOSTS} hosts, {OWNERS} owners")
        print(f"{options.history} ended, {options.waiting} waiting, a week of FAILED ledgers: {before / 1e6:.0f} MB")
        seen = day(store, url, folder, like, options.jobs, options.hour)
        print(f"a day of {options.jobs} jobs of {options.steps} steps: at most {max(seen.memory) / 1e6:.0f} MB")
        shown("supervisor round", seen.rounds)
        shown("ListJobs page of 100", seen.pages)
        shown("archive of one ledger", seen.archives)


if __name__ == "__main__":
    main()
