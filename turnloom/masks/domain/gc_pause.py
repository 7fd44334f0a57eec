"""Pause the cyclic garbage collector around short bursts of allocation."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: New objects, young and middle collections after which the next older generation is walked.
THRESHOLDS: Final = (2_000, 20, 50)


def settle_collector() -> None:
    """Leave what a server has loaded out of all later collections, and make those of old objects rarer.

    A collection holds the interpreter. Each full one walked the 90,000 objects of the imports, too: 40 ms on a free
    core and 200 ms on a busy one, in which no call was answered. Call it once the models are loaded.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


@contextmanager
def collections_paused() -> Iterator[None]:
    """Pause cyclic garbage collection, for short work that keeps many new objects and makes hardly any cycles.

    A batch of 500 makes 30,000 objects that live until it ends. So every collection on the way walks them in vain: 8 to
    12 % of the batch. With several threads inside, the one that paused the collector resumes it. So it runs between
    batches even where some batch is always under way.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
