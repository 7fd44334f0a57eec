"""GPU hosts: their probes' reports, their workers' heartbeats, and the choice of a host for a job."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import redis

from services.store import keys
from services.store.codec import decode, encode
from services.store.connection import StoreRedis, redis_time
from services.store.errors import NoHost
from services.store.queueing import workers
from services.store.queueing.queues import queue_name
from services.store.records import HostRecord

#: Seconds after which a host that reports nothing is forgotten altogether.
_FORGET = 86400.0 * 30
#: Seconds after the last heartbeat of a worker in which its host gets jobs; as long as a worker counts.
ALIVE: Final = workers.FRESH
#: Seconds of silence after which another machine may have a host's name.
_IDENTITY = 60.0
#: Seconds that a refusal is remembered, for `doctor`.
_REFUSED = 86400.0


@dataclass(frozen=True, slots=True)
class HostClaim:
    """A machine under a host's name."""

    host: str
    id: str  #: of its checkpoint folder
    machine: str  #: its own name, for people
    time: float = 0.0  #: when it was refused, seconds since 1970; 0: it was not


def claim_host(client: redis.Redis, own: HostClaim) -> HostClaim | None:
    """Claim a host's name for a machine; return the other machine that has it, which is noted for `doctor`."""
    key = keys.identity(own.host)
    if not client.set(key, encode(own), nx=True, px=_milliseconds(_IDENTITY)):
        other = _claim(client, key)
        if other is not None and other.id != own.id:
            note = encode(replace(own, time=time.time()))
            client.set(keys.refused(own.host), note, px=_milliseconds(_REFUSED))
            return other
    return keep_host(client, own, own.host)


def keep_host(client: redis.Redis, own: HostClaim | None, host: str) -> HostClaim | None:
    """Report that a worker of a host is there; return another machine that has taken its name meanwhile."""
    if own is not None:
        other = _claim(client, keys.identity(host))
        if other is not None and other.id != own.id:
            return other
        client.set(keys.identity(host), encode(own), px=_milliseconds(_IDENTITY))
    client.set(keys.alive(host), "1", px=_milliseconds(ALIVE))
    return None


def release_host(client: redis.Redis, own: HostClaim) -> None:
    """Give a host's name back; other workers of the machine take it again with their next heartbeat."""
    held = _claim(client, keys.identity(own.host))
    if held is not None and held.id == own.id:
        client.delete(keys.identity(own.host))


def _claim(client: redis.Redis, key: str) -> HostClaim | None:
    text = client.get(key)
    if text is None:
        return None
    return decode(HostClaim, text.decode() if isinstance(text, bytes) else text)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


class Hosts:
    """Hosts in one Redis."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client

    def put(self, record: HostRecord, ttl: float = 60.0, alive: float | None = None) -> None:
        """Store a probe's report; without another one it expires after `ttl` seconds.

        The host counts as live for `alive` seconds (None: `ttl`), and as long as its workers report.
        """
        seen = redis_time(self._client)  # one clock for all hosts
        pipe = self._client.pipeline()
        pipe.set(keys.host(record.name), encode(replace(record, heartbeat_time=seen)), px=_milliseconds(ttl))
        pipe.set(keys.alive(record.name), "1", px=_milliseconds(ttl if alive is None else alive))
        pipe.zadd(keys.HOSTS, {record.name: seen})
        pipe.zremrangebyscore(keys.HOSTS, "-inf", seen - _FORGET)
        pipe.execute()

    def list(self) -> Sequence[HostRecord]:
        """Return hosts that reported of late, by name; fresh workers and queued_jobs are counted now."""
        return [record for record, _ in self._reported()]

    def live(self) -> Sequence[HostRecord]:
        """Return the hosts of them whose workers are there: those that may have jobs."""
        return [record for record, alive in self._reported() if alive]

    def _reported(self) -> Sequence[tuple[HostRecord, bool]]:
        names = sorted(cast(list[str], self._client.zrange(keys.HOSTS, 0, -1)))
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.get(keys.host(name))
            pipe.llen(f"rq:queue:{queue_name(name)}")
            pipe.exists(keys.alive(name))
        found = pipe.execute()
        records: list[tuple[HostRecord, bool]] = []
        counts = workers.count(self._client, [queue_name(name) for name in names])
        for index, present in enumerate(counts):
            text, queued, alive = cast(tuple[str | None, int, int], tuple(found[3 * index : 3 * index + 3]))
            if text is not None:
                record = replace(decode(HostRecord, text), workers=present, queued_jobs=queued)
                records.append((record, bool(alive)))
        return records

    def get(self, name: str) -> HostRecord | None:
        """Return one host; None: it has not reported of late."""
        return next((record for record in self.list() if record.name == name), None)

    def refused(self, name: str) -> HostClaim | None:
        """Return the last machine that was refused under a host's name; None: there was none within a day."""
        return _claim(self._client, keys.refused(name))

    def silent(self, name: str) -> float:
        """Return the seconds since a host's last report; infinite if there never was one."""
        seen = self._client.zscore(keys.HOSTS, name)
        return max(0.0, redis_time(self._client) - seen) if seen is not None else float("inf")

    def place(self, tuft_model: str, lora_rank: int, host: str = "") -> str:
        """Return the live host for a job: the requested one, else the one with the shortest queue. Raises NoHost.

        A host qualifies when its TuFT serves the model and its largest rank is unknown or large enough.
        """
        able = self.able(tuft_model, lora_rank, host)
        return min(able, key=lambda record: (not record.backend_up, record.queued_jobs, record.name)).name

    def able(self, tuft_model: str, lora_rank: int, host: str = "") -> Sequence[HostRecord]:
        """Return live hosts that can take a job, or the requested one. Raises NoHost if there is none."""
        live = self.live()
        if host and all(record.name != host for record in live):
            raise NoHost(f"host {host} has not reported; {_known(live)}")
        able = [record for record in live if host in ("", record.name) and record.serves(tuft_model, lora_rank)]
        if not able:
            wanted = f"model {tuft_model} at LoRA rank {lora_rank}"
            raise NoHost(f"{f'host {host} does not serve' if host else 'no host serves'} {wanted}; {_known(live)}")
        return able


def _known(live: Sequence[HostRecord]) -> str:
    if not live:
        return "no host reports at all: start a trainer worker (python -m services.trainer)"
    served = (
        f"{record.name} serves "
        + (", ".join(f"{model.name} ({_ranks(model.max_lora_rank)})" for model in record.models) or "nothing")
        for record in live
    )
    return "; ".join(served)


def _ranks(largest: int) -> str:
    return f"rank <= {largest}" if largest else "any rank"
