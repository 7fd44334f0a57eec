"""Count the workers of a queue that are there, by the age of their last sign.

RQ keeps a set of workers for each queue, and strikes a killed one off only in its maintenance, minutes later. So the
set tells names, and the life that is left to each worker's record tells its age. That is by Redis's own clock; the
time in the record is by the clock of the worker's machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from services.store.connection import StoreRedis

#: Seconds that each sign of a worker gives to its record, whether it waits or works. ticket_jobs.py sees to it.
RECORD_LIFE: Final = 120.0
#: Seconds after its last sign in which a worker counts. One comes every 5 s: before and after each wait on an empty
#: queue, which lasts 5 s at most, and as often from the parent of a busy horse. An idle worker misses Redis's return
#: by 5 s at most, and loading a dataset's model in the parent takes some seconds.
FRESH: Final = 20.0


def registered(queue: str) -> str:
    """Name RQ's set of the workers of a queue; its members are the keys of their records."""
    return f"rq:workers:{queue}"


def count(client: StoreRedis, queues: Sequence[str]) -> list[int]:
    """Return the number of fresh workers of each queue, idle or busy, in two round trips for all queues."""
    pipe = client.pipeline(transaction=False)
    for queue in queues:
        pipe.smembers(registered(queue))
    sets = [sorted(cast(set[str], found)) for found in pipe.execute()]
    for name in (name for names in sets for name in names):
        pipe.pttl(name)
    lives = iter(cast(list[int], pipe.execute()))  # milliseconds; below 0: there is no record, or one without an end
    return [sum(next(lives) > 1000 * (RECORD_LIFE - FRESH) for _ in names) for names in sets]
