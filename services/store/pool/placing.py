"""Decide which waiting job gets a host next. Pure: waiting.py reads the input and writes the decisions.

A job waits in the pool of hosts that serve its model and rank, until one has a free worker. Order: priority, then
the owner with the fewest jobs on hosts, then the owner served longest ago, then age.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.store.records import HostRecord


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued job without a host, as the index has it."""

    job: str
    owner: str
    priority: int
    model: str  #: TuFT's name
    rank: int
    host: str  #: the only one that may have it; empty: any that serves it
    avoid: str  #: host that it was moved away from
    last: str  #: host where it was last: it goes there if it can, for its files are there
    time: float  #: since when it waits, seconds since 1970
    attempt: int  #: of its last claim
    sampled: bool = False  #: a host must be able to sample its model


@dataclass(frozen=True, slots=True)
class Load:
    """Current and allowed load of the hosts."""

    hosts: Sequence[HostRecord]  #: live ones
    by_host: Mapping[str, int]  #: jobs with a ticket there or held there
    by_owner: Mapping[str, int]  #: jobs of an owner on any host
    served: Mapping[str, float] = field(default_factory=dict)  #: owner to when a job of theirs last got a host
    quota: int = 0  #: jobs of one owner on hosts at most; 0: any number

    def has_room(self) -> bool:
        """Return whether any live host has a free worker."""
        return any(host.backend_up and host.workers > self.by_host.get(host.name, 0) for host in self.hosts)


@dataclass(frozen=True, slots=True)
class Choice:
    """A job and the host that it gets."""

    job: str
    attempt: int
    host: str


def hosts_for(waiting: Waiting, hosts: Sequence[HostRecord]) -> list[HostRecord]:
    """Return the hosts that may have a job, whether or not they have a free worker."""
    able = [host for host in hosts if host.serves(waiting.model, waiting.rank)]
    if waiting.sampled:
        able = [host for host in able if host.samples(waiting.model)]
    if waiting.host:
        return [host for host in able if host.name == waiting.host]
    return [host for host in able if host.name != waiting.avoid]


def in_order(waiting: Sequence[Waiting], load: Load) -> list[Waiting]:
    """Order the jobs as they would get a host if every one of them could have any host.

    Within an owner and priority the order is by age. So one heap of owners gives it in n log n.
    """
    mine: dict[tuple[int, str], list[Waiting]] = {}
    for one in sorted(waiting, key=lambda one: (one.time, one.job), reverse=True):
        mine.setdefault((-one.priority, one.owner), []).append(one)
    counts, served = Counter(load.by_owner), dict(load.served)
    turn = max(served.values(), default=0.0)
    ordered: list[Waiting] = []
    for priority in sorted({priority for priority, _ in mine}):
        heap = [_place(owner, jobs, counts, served) for (level, owner), jobs in mine.items() if level == priority]
        heapq.heapify(heap)
        while heap:
            *_, owner = heapq.heappop(heap)
            jobs = mine[priority, owner]
            ordered.append(jobs.pop())
            turn += 1.0
            counts[owner] += 1
            served[owner] = turn
            if jobs:
                heapq.heappush(heap, _place(owner, jobs, counts, served))
    return ordered


def _place(
    owner: str, jobs: Sequence[Waiting], counts: Mapping[str, int], served: Mapping[str, float]
) -> tuple[int, float, float, str]:
    return counts.get(owner, 0), served.get(owner, 0.0), jobs[-1].time, owner


def choose(waiting: Sequence[Waiting], load: Load) -> list[Choice]:
    """Assign waiting jobs to free workers until no job fits.

    An owner at the quota gets nothing more. A job that fits no free host is skipped, and does not hold up others.
    """
    free = {
        host.name: host.workers - load.by_host.get(host.name, 0)
        for host in load.hosts
        if host.backend_up and host.workers > load.by_host.get(host.name, 0)
    }
    if not free:
        return []
    counts = Counter(load.by_owner)
    choices: list[Choice] = []
    for one in in_order(waiting, load):
        if not free:
            break
        if load.quota and counts[one.owner] >= load.quota:
            continue
        fitting = [host for host in hosts_for(one, load.hosts) if host.name in free]
        if not fitting:
            continue
        host = min(fitting, key=lambda host: (host.name != one.last, -free[host.name], host.name)).name
        choices.append(Choice(one.job, one.attempt, host))
        counts[one.owner] += 1
        free[host] -= 1
        if not free[host]:
            del free[host]
    return choices


def why_waiting(one: Waiting, load: Load) -> str:
    """Return one sentence on why a job has no host yet."""
    able = hosts_for(one, load.hosts)
    if one.sampled and not able and hosts_for(replace(one, sampled=False), load.hosts):
        return f"It is to be sampled while it trains, and no live host samples {one.model}."
    if one.host and not able:
        live = any(host.name == one.host for host in load.hosts)
        how = f"does not serve {one.model} at rank {one.rank}" if live else "is silent"
        return f"It asks for host {one.host}, which {how}."
    if not able:
        other = "other " if any(host.serves(one.model, one.rank) for host in load.hosts) else ""
        return f"No {other}live host serves {one.model} at rank {one.rank}."
    up = [host for host in able if host.backend_up]
    if not up:
        return f"TuFT does not answer on {', '.join(host.name for host in able)}."
    manned = [host for host in up if host.workers]
    unmanned = ", ".join(host.name for host in up if not host.workers)
    if not manned:
        return f"No worker runs on {unmanned}."
    if load.quota and load.by_owner.get(one.owner, 0) >= load.quota:
        return f"{one.owner or 'Its owner'} has as many jobs on hosts as the quota allows: {load.by_owner[one.owner]}."
    if all(load.by_host.get(host.name, 0) >= host.workers for host in manned):
        busy = f"Every worker is busy: {', '.join(f'{host.name} has {host.workers}' for host in manned)}"
        return f"{busy}; no worker runs on {unmanned}." if unmanned else f"{busy}."
    return "A worker is free; the supervisor gives it out within a second."


def why_not_begun(host: str, load: Load) -> str:
    """Return one sentence on why a job that has a host, `host`, has not begun there yet."""
    found = next((one for one in load.hosts if one.name == host), None)
    if found is None:
        return f"It goes on at host {host}, which is silent."
    if not found.backend_up:
        return f"It goes on at host {host}, where TuFT does not answer."
    if not found.workers:
        return f"It goes on at host {host}, where no worker runs."
    if load.by_host.get(host, 0) > found.workers:
        return f"It goes on at host {host}, where every worker is busy or gone."
    return f"A worker of host {host} takes it next."
