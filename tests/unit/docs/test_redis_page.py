"""docs/redis.md names every key of services/store/keys.py, and the lifetimes of a host's keys."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from services.store import hosts
from services.trainer.host.probe_host import RECORD_TTL

ROOT = Path(__file__).resolve().parents[3]
#: key without what stands in for an id -> its lifetime, or what else the row ends with
ROWS = {
    re.sub(r"\{[^}]*\}", "*", key): line.strip("| ").rpartition("|")[2].strip()
    for line in (ROOT / "docs/redis.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `tl:")
    for key in re.findall(r"`(tl:[^`]+)`", line)
}


def keys() -> set[str]:
    """Return the keys that the module spells, with * where an id stands."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "services/store/keys.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.add("".join(part.value if isinstance(part, ast.Constant) else "*" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return {key for key in found if re.fullmatch(r"tl:[a-z:*-]*[a-z*]", key)}


def test_every_key_stands_on_the_page_and_no_other() -> None:
    assert len(keys()) > 40
    assert keys() == set(ROWS)


def test_the_page_says_how_long_the_keys_of_a_host_stay() -> None:
    assert ROWS["tl:run:host:*"].startswith(f"{RECORD_TTL:.0f} s, ")
    assert ROWS["tl:run:alive:*"].startswith(f"{hosts.ALIVE:.0f} s, ")
