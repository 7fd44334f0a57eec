"""GPU hosts: their probes' reports, and the choice of a host for a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from services.store import keys
from services.store.codec import decode, encode
from services.store.connection import StoreRedis, redis_time
from services.store.errors import NoHost
from services.store.queueing.queues import queue_name
from services.store.records import HostRecord

#: Seconds after which a host that reports nothing is forgotten altogether.
_FORGET = 86400.0 * 30


class Hosts:
    """Hosts in one Redis."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client

    def put(self, record: HostRecord, ttl: float = 60.0) -> None:
        """Store a probe's report; without another one it expires after `ttl` seconds."""
        seen = redis_time(self._client)  # one clock for all hosts
        pipe = self._client.pipeline()
        pipe.set(keys.host(record.name), encode(replace(record, heartbeat_time=seen)), px=max(1, round(ttl * 1000)))
        pipe.zadd(keys.HOSTS, {record.name: seen})
        pipe.zremrangebyscore(keys.HOSTS, "-inf", seen - _FORGET)
        pipe.execute()

    def list(self) -> Sequence[HostRecord]:
        """Return live hosts by name; workers and queued_jobs are counted now."""
        names = sorted(cast(list[str], self._client.zrange(keys.HOSTS, 0, -1)))
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.get(keys.host(name))
            pipe.scard(f"rq:workers:{queue_name(name)}")
            pipe.llen(f"rq:queue:{queue_name(name)}")
        found = pipe.execute()
        records: list[HostRecord] = []
        for index in range(0, len(found), 3):
            text, workers, queued = cast(tuple[str | None, int, int], tuple(found[index : index + 3]))
            if text is not None:
                records.append(replace(decode(HostRecord, text), workers=workers, queued_jobs=queued))
        return records

    def get(self, name: str) -> HostRecord | None:
        """Return one live host; None: it has not reported in time."""
        return next((record for record in self.list() if record.name == name), None)

    def silent(self, name: str) -> float:
        """Return the seconds since a host's last report; infinite if there never was one."""
        seen = self._client.zscore(keys.HOSTS, name)
        return max(0.0, redis_time(self._client) - seen) if seen is not None else float("inf")

    def place(self, tuft_model: str, lora_rank: int, host: str = "") -> str:
        """Return the live host for a job: the requested one, else the one with the shortest queue. Raises NoHost.

        A host can take the job when its TuFT serves the model and its largest rank is unknown or large enough.
        """
        able = self.able(tuft_model, lora_rank, host)
        return min(able, key=lambda record: (not record.backend_up, record.queued_jobs, record.name)).name

    def able(self, tuft_model: str, lora_rank: int, host: str = "") -> Sequence[HostRecord]:
        """Return live hosts that can take a job, or the requested one. Raises NoHost if there is none."""
        live = self.list()
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
