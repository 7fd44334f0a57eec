"""Connect to Redis: deadlines on every socket, and outages as one error class."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.retry import Retry

from services.store import keys
from services.store.errors import RedisForbids, RedisUnavailable, SchemaMismatch
from services.store.records import SCHEMA_VERSION

#: Replies by which a reachable Redis says that it can't take writes now; inside a script they come after a dash.
_REFUSAL = re.compile(r"(^|-)(OOM|MISCONF|READONLY|LOADING|NOREPLICAS|MASTERDOWN|BUSY) ")
#: What a script that may be run, and may not do what it does, is told. A plain command is a NoPermissionError.
_FORBIDDEN = re.compile(r"The user executing the script can't|^NOPERM ")


def _translated(error: redis.RedisError) -> Exception:
    text = str(error)
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return RedisUnavailable(f"Redis can't be reached ({text}); is it running, and is TURNLOOM_REDIS_URL right?")
    if isinstance(error, redis.ReadOnlyError) or "READONLY " in text:
        return RedisUnavailable(
            f"Redis is read-only ({text}): it is a replica, or became one; point TURNLOOM_REDIS_URL at the primary, or"
            " end the replication there (REPLICAOF NO ONE)"
        )
    if isinstance(error, redis.exceptions.NoPermissionError) or _FORBIDDEN.search(text):
        return RedisForbids(
            f"Redis does not permit this ({text}); give the user that TURNLOOM_REDIS_URL names its rights of"
            " deploy/redis/users.acl"
        )
    if _REFUSAL.search(text) or isinstance(error, redis.OutOfMemoryError):
        return RedisUnavailable(f"Redis refuses writes ({text}); give it memory or disk, then try again")
    return error


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raise outages of a plain client (RQ's) as RedisUnavailable."""
    try:
        yield
    except redis.RedisError as error:
        raise _translated(error) from error


class StorePipeline(Pipeline):
    """A pipeline that raises outages as RedisUnavailable."""

    def execute(self, raise_on_error: bool = True) -> list[object]:
        """Send all commands in one round trip."""
        try:
            return list(super().execute(raise_on_error))
        except redis.RedisError as error:
            raise _translated(error) from error


class StoreRedis(redis.Redis):
    """A client that raises outages as RedisUnavailable, text in and out."""

    def execute_command(self, *args: object, **options: object) -> object:
        """Send one command."""
        try:
            result: object = super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            raise _translated(error) from error
        return result

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> StorePipeline:
        """Make a pipeline of commands sent together, in MULTI/EXEC by default."""
        return StorePipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def connect(url: str, socket_timeout: float = 10.0) -> StoreRedis:
    """Make a client for the store. This sends nothing, and the client never retries by itself.

    A hidden retry after a timeout would run a script twice; each caller knows whether its own may.
    """
    client = StoreRedis.from_url(
        url,
        decode_responses=True,
        socket_timeout=socket_timeout,
        socket_connect_timeout=min(socket_timeout, 5.0),
        socket_keepalive=True,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 0),
    )
    return cast(StoreRedis, client)


def connect_rq(url: str, socket_timeout: float | None = None) -> redis.Redis:
    """Make a client for RQ's queue and worker classes, which want bytes.

    A worker leaves `socket_timeout` out: RQ then sets it to fit its blocking reads. Everybody else gives one.
    """
    return redis.Redis.from_url(url, socket_timeout=socket_timeout, socket_connect_timeout=5.0, socket_keepalive=True)


def redis_time(client: StoreRedis) -> float:
    """Return Redis's clock, seconds since 1970: the one that all processes share."""
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


def check_schema(client: StoreRedis) -> None:
    """Write the schema version into an empty Redis; raise SchemaMismatch if it holds another version."""
    found = cast(str | None, client.get(keys.SCHEMA))
    if found is None:  # looked at first: a process may have no right to write it
        try:
            client.set(keys.SCHEMA, SCHEMA_VERSION, nx=True)
        except RedisForbids:
            raise RedisUnavailable(
                "Redis holds no schema version yet; start the API or the supervisor, which may write it"
            ) from None
        found = cast(str | None, client.get(keys.SCHEMA))
    if found != str(SCHEMA_VERSION):
        raise SchemaMismatch(
            f"Redis holds records of schema version {found}, this program writes version {SCHEMA_VERSION}; "
            "use the matching release or an empty Redis"
        )
