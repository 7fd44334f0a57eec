"""The pool of jobs that wait for a host: read it, and write placing.py's decisions, by one script."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import cast

from services.store import keys
from services.store.connection import StoreRedis
from services.store.hosts import Hosts
from services.store.pool.placing import Choice, Load, Waiting
from services.store.scripts import Scripts


class Pool:
    """The waiting jobs of one Redis."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._hosts = Hosts(client)

    def waiting(self) -> list[Waiting]:
        """Return all jobs that wait for a host, in no order."""
        found = cast(dict[str, str], self._client.hgetall(keys.WAITING))
        return [_waiting(job, text) for job, text in found.items()]

    def placed(self) -> dict[str, str]:
        """Return the host of every job that has one, queued there or held there."""
        return {job: text.partition(" ")[0] for job, text in self._placed().items()}

    def quota(self) -> int:
        """Return how many jobs of one owner may be on hosts, as the supervisor last said; 0: any number."""
        return int(cast(str | None, self._client.get(keys.QUOTA)) or 0)

    def say_quota(self, quota: int) -> None:
        """Say what `quota` answers: the API names it to those that wait."""
        self._client.set(keys.QUOTA, quota)

    def load(self, quota: int = 0) -> Load:
        """Return the current load of hosts. `quota`: jobs of one owner on hosts at most; 0: any number."""
        pairs = [text.partition(" ")[::2] for text in self._placed().values()]
        served = cast(dict[str, str], self._client.hgetall(keys.SERVED))
        return Load(
            hosts=self._hosts.live(),
            by_host=Counter(host for host, _ in pairs),
            by_owner=Counter(owner for _, owner in pairs),
            served={owner: float(time) for owner, time in served.items()},
            quota=quota,
        )

    def assign(self, choices: Sequence[Choice]) -> list[str]:
        """Assign jobs to hosts in one step; return those that were still waiting. The caller enqueues their tickets."""
        if not choices:
            return []
        given = [{"job": one.job, "attempt": one.attempt, "host": one.host} for one in choices]
        return cast(list[str], self._scripts.read("assign", choices=given))

    def _placed(self) -> dict[str, str]:
        return cast(dict[str, str], self._client.hgetall(keys.PLACED))


def _waiting(job: str, text: str) -> Waiting:
    stored = json.loads(text)
    return Waiting(
        job=job,
        owner=stored.get("owner") or "",
        priority=int(stored["priority"]),
        model=stored["model"],
        rank=int(stored["rank"]),
        host=stored.get("host") or "",
        avoid=stored.get("avoid") or "",
        last=stored.get("last") or "",
        time=float(stored["time"] or 0),
        attempt=int(stored["attempt"]),
        sampled=bool(stored.get("sampled")),
    )
