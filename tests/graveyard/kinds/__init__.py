"""The cases, a module per kind of bug; the first line of each module is its heading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.graveyard.case import Case
from tests.graveyard.kinds import authors, ends, files, keys, lengths, reasoning, starts, tokens, tools

#: Heading -> cases, in the order of the page.
KINDS: Final[Mapping[str, tuple[Case, ...]]] = {
    str(kind.__doc__).splitlines()[0].rstrip("."): kind.CASES
    for kind in (ends, starts, authors, reasoning, tools, lengths, tokens, files, keys)
}
CASES: Final = tuple(case for cases in KINDS.values() for case in cases)
