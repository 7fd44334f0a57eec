"""Pages of an index by creation time, newest first. Knows no record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from services.store.connection import StoreRedis
from services.store.errors import BadToken

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items of a list."""

    items: Sequence[Item]
    next_page_token: str = ""  #: empty on the last page


def newest(client: StoreRedis, index: str, token: str, count: int) -> list[tuple[str, str]]:
    """Up to `count` (id, token of the position after it) that follow `token` in a zset by microseconds, newest first.

    Within a microsecond ids go backwards, as ZREVRANGEBYSCORE has them; the token names time and id, so nothing is
    shown twice or left out when items come or go between pages.
    """
    highest, last = "+inf", ""
    if token:
        time, _, last = token.partition(".")
        if not time.isdigit() or not last:
            raise BadToken(f"page_token {token!r} was not given by this server; begin again without one")
        highest = time
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
