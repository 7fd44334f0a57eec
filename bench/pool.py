"""What many waiting jobs cost: a supervisor's round, a page of ListJobs, a scrape. `python -m bench.pool`.

Uses a Redis of its own on a free port; jobs are records without data, hosts have no process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from bench.program import DEV, libraries, usage

PROGRAM: Final = usage("bench.pool", __doc__)
PROGRAM.add_argument("--waiting", type=int, default=1000)
PROGRAM.add_argument("--done", type=int, default=2000)

with libraries(DEV, __name__, PROGRAM):
    from bench.ledger import opened
    from services.store.records import HostRecord, JobSpec, JobState, ServedModelRecord
    from services.store.store import Store
    from services.trainer.supervision.exporter import ExporterSettings, Source
    from services.trainer.supervision.supervisor import Supervisor, SupervisorSettings
    from tests.support.rq_workers import sign_in

SPEC = JobSpec("m", "tuft/m", "ds")
OWNERS, HOSTS = 20, 5


def fill(store: Store, waiting: int, done: int) -> None:
    """Make jobs of 20 owners; `done` of them have ended."""
    store.redis.hset("tl:api:dataset:ds", "state", "ready")
    for number in range(done + waiting):
        owner = f"owner-{number % OWNERS}"
        job = store.jobs.create(replace(SPEC, owner=owner, metadata={"batch": str(number % 50)})).job
        store.jobs.queue(job.id, host="", planned_steps=100)
        if number < done:
            store.jobs.cancel(job.id)


def beat(store: Store) -> None:
    """Let every host report."""
    for number in range(HOSTS):
        model = (ServedModelRecord("tuft/m"),)
        store.hosts.put(HostRecord(f"h{number}", models=model, backend_up=True), ttl=3600.0)
        sign_in(store, f"train.h{number}")


def timed(name: str, act: Callable[[], object], times: int = 15) -> None:
    """Print the median and the slowest of some calls, milliseconds."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        act()
        taken.append(1e3 * (time.perf_counter() - begun))
    print(f"{name:44} median {statistics.median(taken):8.1f} ms   slowest {max(taken):8.1f} ms")


def measure(store: Store, url: str) -> None:
    """Print the table."""
    watcher = Supervisor(store, SupervisorSettings(url, host_lost=600.0))
    beat(store)
    watcher.round()
    timed("supervisor round, nothing to give", watcher.round)
    timed("ListJobs page of 100", lambda: store.jobs.list(page_size=100))
    timed("ListJobs, state RUNNING (none)", lambda: store.jobs.list(states=[JobState.RUNNING]))
    timed("ListJobs, one label of 50", lambda: store.jobs.list(page_size=100, metadata={"batch": "7"}))
    timed("ListJobs, one owner of 20", lambda: store.jobs.list(page_size=100, owner="owner-3"))
    timed("every job read (what a round cost before)", store.jobs.active, 3)
    source = Source(ExporterSettings(url))
    timed("one scrape's reading", source)
    source.close()


def main() -> None:
    """Measure with so many jobs."""
    options = PROGRAM.parse_args()
    with opened() as store:
        pool = store.redis.connection_pool.connection_kwargs
        url = f"redis://{pool['host']}:{pool['port']}/{pool.get('db', 0)}"
        fill(store, options.waiting, options.done)
        print(f"{options.waiting} jobs wait, {options.done} ended; {OWNERS} owners, {HOSTS} hosts")
        measure(store, url)


if __name__ == "__main__":
    main()
