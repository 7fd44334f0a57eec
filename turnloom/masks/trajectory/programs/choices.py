"""Which messages filters keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from turnloom.masks.template.environment import PlainEnvironment

_PLAIN: Final = PlainEnvironment()


class Choice(NamedTuple):
    """One filter: messages are kept whose attribute passes a test, or fails it."""

    attribute: str
    test: str
    arguments: tuple[Any, ...]
    kept: bool


def chosen(messages: Sequence[dict[str, Any]], start: int, choices: Sequence[Choice]) -> list[int]:
    """Return the positions of the messages from `start` on that all filters keep."""
    found = range(start, len(messages))
    for attribute, test, arguments, kept in choices:
        passes: Any = _PLAIN.tests[test]
        found = [  # type: ignore[assignment]
            at for at in found if bool(passes(_PLAIN.getitem(messages[at], attribute), *arguments)) is kept
        ]
    return list(found)
