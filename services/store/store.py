"""The parts of the store in one value, wired by hand."""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis

from services.store.blobs.evaluations import Evaluations
from services.store.blobs.objects import Objects
from services.store.blobs.replies import Replies
from services.store.connection import StoreRedis, check_schema, connect, connect_rq
from services.store.datasets import Datasets
from services.store.events import Events
from services.store.halving import Halvings
from services.store.hosts import Hosts
from services.store.jobs import Jobs
from services.store.ledger import Ledger
from services.store.pool.waiting import Pool
from services.store.queueing.tickets import Tickets
from services.store.queueing.unwanted import Unwanted
from services.store.sweeps import Sweeps


@dataclass(frozen=True, slots=True)
class Store:
    """The whole store. Safe to share between threads, never over a fork."""

    redis: StoreRedis
    rq: Redis  #: for RQ's classes: bytes
    jobs: Jobs
    ledger: Ledger
    events: Events
    hosts: Hosts
    datasets: Datasets
    unwanted: Unwanted
    sweeps: Sweeps
    halvings: Halvings
    tickets: Tickets
    pool: Pool
    objects: Objects
    evaluations: Evaluations
    replies: Replies

    def close(self) -> None:
        """Close all connections."""
        self.redis.close()
        self.rq.close()


def open_store(
    redis_url: str, store_url: str = "", lease_ttl: float = 15.0, socket_timeout: float = 10.0, quota: int = 0
) -> Store:
    """Connect and check the schema version. Raises RedisUnavailable, SchemaMismatch.

    `store_url`: the fsspec URL or folder of datasets and adapters; empty for a process that touches no file.
    `socket_timeout`: seconds that one answer of Redis may take; a process with callers of its own gives fewer.
    `quota`: jobs of one owner that this process lets into the queue; 0: any number.
    """
    client = connect(redis_url, socket_timeout)
    check_schema(client)
    queues = connect_rq(redis_url, socket_timeout=socket_timeout)
    return Store(
        redis=client,
        rq=queues,
        jobs=Jobs(client, lease_ttl, quota),
        ledger=Ledger(client),
        events=Events(client),
        hosts=Hosts(client),
        datasets=Datasets(client),
        unwanted=Unwanted(client),
        sweeps=Sweeps(client),
        halvings=Halvings(client),
        tickets=Tickets(queues),
        pool=Pool(client),
        objects=Objects(store_url),
        evaluations=Evaluations(store_url),
        replies=Replies(store_url),
    )
