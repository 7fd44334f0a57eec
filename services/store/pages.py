"""Pages of an index by creation time, newest first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from services.store import keys
from services.store.connection import StoreRedis
from services.store.errors import BadToken

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items of a list."""

    items: Sequence[Item]
    next_page_token: str = ""  #: empty on the last page


def owned_index(client: StoreRedis, every: str, kind: str, owner: str | None) -> str:
    """Return the key of an owner's index, or of that of all where it may lack what earlier versions made."""
    return keys.owned(kind, owner) if owner is not None and client.exists(keys.OWNED) else every


def index_owned(client: StoreRedis) -> None:
    """Add datasets and sweeps of earlier versions to their owners' indexes, once."""
    if client.exists(keys.OWNED):
        return
    for kind, every, key in (("datasets", keys.DATASETS, keys.dataset), ("sweeps", keys.SWEEPS, keys.sweep)):
        for name, time in cast(list[tuple[str, float]], client.zrange(every, 0, -1, withscores=True)):
            record = cast("str | None", client.hget(key(name), "record"))
            if record is not None:
                client.zadd(keys.owned(kind, json.loads(record).get("owner") or ""), {name: time})
    client.set(keys.OWNED, 1)


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
        if not time.isdigit() or not last:
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
