"""Pages of an index by creation time, newest first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

from services.store import keys
from services.store.connection import StoreRedis
from services.store.errors import BadToken
from services.store.scripts import Scripts

Item = TypeVar("Item")

_COMPARED: Final = 1_000  # ids that are looked for in other indexes at once
_INDEXED: Final = "2"  # value of keys.OWNED; "1": by owner only


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items of a list."""

    items: Sequence[Item]
    next_page_token: str = ""  #: empty on the last page


@dataclass(frozen=True, slots=True)
class Filter(Generic[Item]):
    """Reads a list that several indexes narrow. Each group of zsets holds every item that matches one condition."""

    client: StoreRedis
    groups: Sequence[Sequence[str]]  #: keys of zsets; an item is in one of each group
    read: Callable[[Sequence[str]], Sequence[Item | None]]  #: records by id; None: it is gone
    matches: Callable[[Item], bool]  #: looks again, for a record may have changed since its index was read

    def page(self, token: str, size: int) -> Page[Item]:
        """Return a page, newest first. Raises BadToken."""
        found: list[tuple[Item, str]] = []
        for rows in _in_all(self.client, self.groups, token, size + 1):
            records = self.read([name for name, _ in rows])
            found += [
                (record, position)
                for record, (_, position) in zip(records, rows, strict=True)
                if record is not None and self.matches(record)
            ]
            if len(found) > size:
                return Page([record for record, _ in found[:size]], found[size - 1][1])
        return Page([record for record, _ in found])


def _in_all(
    client: StoreRedis, groups: Sequence[Sequence[str]], token: str, count: int
) -> Iterator[Sequence[tuple[str, str]]]:
    """Yield what `newest` gives of the smallest group, up to `count` at a time and without what another group lacks.

    Records are ten times as dear as a look into an index, so many ids are compared before any record is read.
    """
    first, *others = _smallest_first(client, groups)
    at_once = max(count, _COMPARED) if others else count
    while True:
        rows = newest(client, first, token, at_once)
        kept = _members(client, others, rows)
        for begin in range(0, len(kept), count):
            yield kept[begin : begin + count]
        if len(rows) < at_once:
            return
        token = rows[-1][1]


def _smallest_first(client: StoreRedis, groups: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    if len(groups) == 1:
        return groups
    pipe = client.pipeline(transaction=False)
    for group in groups:
        for index in group:
            pipe.zcard(index)
    sizes = iter(cast(Sequence[int], pipe.execute()))
    return sorted(groups, key=lambda group: sum(next(sizes) for _ in group))


def _members(
    client: StoreRedis, groups: Sequence[Sequence[str]], rows: Sequence[tuple[str, str]]
) -> Sequence[tuple[str, str]]:
    """Return those rows whose ids are in a zset of each group."""
    if not groups or not rows:
        return rows
    pipe = client.pipeline(transaction=False)
    for group in groups:
        for index in group:
            pipe.zmscore(index, [name for name, _ in rows])
    scores = iter(cast(Sequence[Sequence[float | None]], pipe.execute()))
    kept = [True] * len(rows)
    for group in groups:
        found = [next(scores) for _ in group]
        kept = [there and any(one[place] is not None for one in found) for place, there in enumerate(kept)]
    return [row for row, there in zip(rows, kept, strict=True) if there]


def owned_index(client: StoreRedis, every: str, kind: str, owner: str | None) -> str:
    """Return the key of an owner's index, or of that of all where it may lack what earlier versions made."""
    return keys.owned(kind, owner) if owner is not None and client.exists(keys.OWNED) else every


def dataset_groups(client: StoreRedis, state: str | None, owner: str | None) -> Sequence[Sequence[str]]:
    """Return the groups of indexes that hold every dataset of a state and an owner; None: of any."""
    if client.get(keys.OWNED) != _INDEXED:
        return [[owned_index(client, keys.DATASETS, "datasets", owner)]]
    groups = [[keys.dataset_state(state)]] if state is not None else []
    groups += [[keys.owned("datasets", owner)]] if owner is not None else []
    return groups or [[keys.DATASETS]]


def index_owned(client: StoreRedis) -> None:
    """Add datasets and sweeps of earlier versions to the indexes by owner and state, once."""
    if client.get(keys.OWNED) == _INDEXED:
        return
    scripts = Scripts(client)
    for kind, every, key in (("datasets", keys.DATASETS, keys.dataset), ("sweeps", keys.SWEEPS, keys.sweep)):
        for name, time in cast(list[tuple[str, float]], client.zrange(every, 0, -1, withscores=True)):
            record = cast("str | None", client.hget(key(name), "record"))
            if record is not None:
                client.zadd(keys.owned(kind, json.loads(record).get("owner") or ""), {name: time})
                scripts.run("dataset_index", dataset=name)
    client.set(keys.OWNED, _INDEXED)


def newest(client: StoreRedis, indexes: str | Sequence[str], token: str, count: int) -> list[tuple[str, str]]:
    """Return up to `count` (id, token of the position after it) that follow `token` in zsets, newest first.

    Scores are microseconds.

    An id that moves from one of several zsets to another meanwhile is named once or not at all. Within a microsecond
    ids go backwards, as ZREVRANGEBYSCORE has them. The token names time and id. So nothing is shown twice or left out
    when items come or go between pages.
    """
    highest, last = "+inf", ""
    if token:
        time, _, last = token.partition(".")
        if not (time.isascii() and time.isdigit()) or not last:
            raise BadToken(f"page_token {token!r} was not given by this server; begin again without one")
        highest = time
    names = [indexes] if isinstance(indexes, str) else indexes
    merged = {row for index in names for row in _newest(client, index, highest, last, count)}
    ordered = sorted(merged, key=lambda row: (int(row[1].partition(".")[0]), row[0]), reverse=True)
    return ordered[:count]


def _newest(client: StoreRedis, index: str, highest: str, last: str, count: int) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    offset = 0
    while len(found) < count:
        rows = cast(
            list[tuple[str, float]],
            client.zrevrangebyscore(index, highest, "-inf", start=offset, num=count + 1, withscores=True),
        )
        offset += len(rows)
        for name, score in rows:
            if last and str(int(score)) == highest and name >= last:
                continue
            found.append((name, f"{int(score)}.{name}"))
        if len(rows) <= count:
            break
    return found[:count]
