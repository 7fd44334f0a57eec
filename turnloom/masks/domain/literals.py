"""One expression for many literals."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

Trie: TypeAlias = "dict[str, Trie]"


def any_of(literals: Iterable[str]) -> re.Pattern[str] | None:
    """Compile one expression that tries the common beginnings of all literals once, the longest literal first.

    Returns:
        None where there is no literal, or only the empty one.
    """
    trie: Trie = {}
    for literal in literals:
        node = trie
        for character in literal:
            node = node.setdefault(character, {})
        if literal:
            node[""] = {}
    return re.compile(_expression(trie)) if trie else None


def _expression(node: Trie) -> str:
    branches = [
        re.escape(character) + _expression(child) if character else ""
        for character, child in sorted(node.items(), reverse=True)  # "" sorts last: the shorter literal
    ]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
