"""Pages after an id, as OpenAI's clients ask for them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Protocol, TypeVar

from services.rest.bodies import Page
from services.rest.problems import invalid


class Named(Protocol):
    """An object with an id."""

    id: str


N = TypeVar("N", bound=Named)


def page(items: Iterable[N], after: str | None, limit: int) -> Page[N]:
    """Return up to `limit` items behind the one with the id `after`; items are read no further than needed.

    Raises:
        Problem: no item has that id.
    """
    rest = iter(items)
    if after and not any(item.id == after for item in rest):
        raise unknown_cursor(after)
    found = list(islice(rest, limit + 1))
    return cut(found, limit)


def cut(found: list[N], limit: int) -> Page[N]:
    """Return the first `limit` items and whether there are more."""
    shown = found[:limit]
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return Page(data=shown, first_id=first, last_id=last, has_more=len(found) > limit)


def unknown_cursor(after: str) -> Exception:
    """Return the refusal of a cursor that is not in the list."""
    return invalid("after", f"there is no {after!r} in this list; begin again without it.")
