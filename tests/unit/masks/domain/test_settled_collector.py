"""A server's collector leaves alone what was there when it was settled."""

from __future__ import annotations

import subprocess
import sys

LOADED = 200_000  #: objects that a server keeps
PROGRAM = f"""
import gc
from turnloom.masks.domain.gc_pause import THRESHOLDS, settle_collector

kept = [[number] for number in range({LOADED})]
before = len(gc.get_objects())
settle_collector()
assert gc.get_threshold() == THRESHOLDS, gc.get_threshold()
assert before - len(gc.get_objects()) >= {LOADED}, "collections still walk what was loaded"


class Ring:
    pass


ring = Ring()
ring.self = ring
del ring
assert gc.collect() >= 1, "new cycles are still found"
"""


def test_collections_leave_out_what_was_loaded_and_still_find_new_cycles() -> None:
    """In a process of its own: a collector that was settled stays so."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
