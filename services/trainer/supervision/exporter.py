"""The exporter process: reads Redis when Prometheus scrapes, and writes nothing. Metric names are in metrics.py."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import cast

from services.store import keys
from services.store.connection import StoreRedis, connect, connect_rq, redis_time
from services.store.hosts import Hosts
from services.store.jobs import Jobs
from services.store.pool.waiting import Pool
from services.store.queueing.tickets import Tickets
from services.store.records import TERMINAL, JobState
from services.trainer.supervision.metrics import QueueSnapshot, Snapshot, registry_for, serve
from services.variables import BadSetting

log = logging.getLogger("turnloom.exporter")

#: In the order in which jobs go through them, so that none is missed on its way.
UNFINISHED = [state for state in JobState if state not in TERMINAL]


@dataclass(frozen=True, slots=True)
class ExporterSettings:
    """Where the exporter reads and listens."""

    redis_url: str  #: may be that of a user with read-only rights
    host: str = "0.0.0.0"  # noqa: S104  # Prometheus comes from another container
    port: int = 9465
    gone_after: float = 900.0  #: seconds after its end or its pause at which a run disappears


class Source:
    """Reads one snapshot per scrape, each run in one atomic command."""

    def __init__(self, settings: ExporterSettings) -> None:
        self._gone_after = settings.gone_after
        self._client = connect(settings.redis_url, socket_timeout=5.0)
        self._queues = connect_rq(settings.redis_url, socket_timeout=5.0)
        self._jobs, self._hosts = Jobs(self._client), Hosts(self._client)
        self._tickets = Tickets(self._queues)
        self._pool = Pool(self._client)

    def __call__(self) -> Snapshot:
        """Read a snapshot. Raises RedisUnavailable, which fails the scrape: `up` becomes 0 and an alert fires."""
        now = redis_time(self._client)
        waiting = self._pool.waiting()
        idle = {one.job for one in waiting if one.attempt == 0}  # nothing to show but that they wait
        unfinished = self._jobs.names_in(UNFINISHED, paused_since=now - self._gone_after)
        names = [name for name in unfinished if name not in idle]
        # First: a run that ends between the two readings is in both, and in no scrape missing.
        active = self._jobs.get_many(names)
        ended = {job.id: job for job in self._jobs.finished(now - self._gone_after, float("inf"))}
        tickets = self._tickets
        return Snapshot(
            now=now,
            runs=[*ended.values(), *(job for job in active if job.id not in ended)],
            hosts=self._hosts.list(),
            queues=[
                QueueSnapshot(name, tickets.depth(name), tickets.oldest_age(name)) for name in sorted(tickets.queues())
            ],
            workers=_workers(self._client),
            paused=self._jobs.number_in(JobState.PAUSED),
            waiting=waiting,
            load=self._pool.load(),
            counters={name: float(value) for name, value in _hash(self._client, keys.COUNTERS).items()},
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._queues.close()


def run(settings: ExporterSettings) -> None:
    """Serve /metrics until SIGTERM or SIGINT.

    Raises:
        BadSetting: the address can't be listened on.
    """
    end = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        end.set()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    source = Source(settings)
    try:
        port, stop = serve(registry_for(source), settings.host, settings.port)
    except OSError as error:
        raise BadSetting(
            f"TURNLOOM_EXPORTER_PORT: can't listen on {settings.host}:{settings.port} ({error.strerror or error}); "
            "end the process that has it, or give another port"
        ) from error
    log.info("metrics at http://%s:%d/metrics", settings.host, port)
    while not end.wait(0.5):  # a signal that another thread received does not wake this one
        pass
    stop()
    source.close()


def _hash(client: StoreRedis, key: str) -> Mapping[str, str]:
    return cast(Mapping[str, str], client.hgetall(key))


def _workers(client: StoreRedis) -> Mapping[str, float]:
    """Return the last heartbeat of every RQ worker, from RQ's keys: RQ's own listing writes if it finds a dead one."""
    names = sorted(cast(set[str], client.smembers("rq:workers")))
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.hget(name, "last_heartbeat")
    found = cast(list[str | None], pipe.execute())
    return {
        name.removeprefix("rq:worker:"): datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
        for name, text in zip(names, found, strict=True)
        if text
    }
