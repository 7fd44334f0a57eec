"""Standings of a sweep's cells at the rungs of successive halving. The supervisor compares the cells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast

from services.store import keys
from services.store.codec import build, encode, plain
from services.store.connection import StoreRedis
from services.store.records import Standing
from services.store.scripts import Scripts


class Halvings:
    """All comparisons in one Redis. Written by the supervisor alone."""

    def __init__(self, client: StoreRedis) -> None:
        self._client = client
        self._scripts = Scripts(client)

    def standings(self, sweep_id: str, step: int) -> tuple[Standing, ...]:
        """Return the cells compared at a rung so far, in order of comparison; empty: none yet."""
        text = cast(str | None, self._client.hget(keys.halving(sweep_id), str(step)))
        return _read(text) if text else ()

    def settle(
        self, sweep_id: str, step: int, known: Sequence[Standing], new: Sequence[Standing], hosts: Mapping[str, str]
    ) -> bool:
        """Write the standings of waiting cells and move the cells, in one step: PAUSED -> QUEUED | CANCELLED.

        The caller enqueues the tickets of those that go on; if it dies in between, the supervisor's next round does.

        Args:
            sweep_id: the sweep.
            step: of the rung.
            known: standings as they were read before the comparison.
            new: one per cell that waits.
            hosts: host by job, of those that go on.

        Returns:
            False: something changed since the reading, and nothing was written; look again.
        """
        answer = self._scripts.run(
            "halve",
            key=keys.halving(sweep_id),
            step=step,
            known=_write(known) if known else "",
            shall=_write([*known, *new]),
            cells=[
                {
                    "job": one.job,
                    "kept": one.kept,
                    "standing": encode(one),
                    "reason": one.reason,
                    "host": hosts.get(one.job, ""),
                }
                for one in new
            ],
        )
        return answer[0] == "ok"


def _write(standings: Sequence[Standing]) -> str:
    return json.dumps(plain(list(standings)), separators=(",", ":"), ensure_ascii=False)


def _read(text: str) -> tuple[Standing, ...]:
    return cast(tuple[Standing, ...], build(tuple[Standing, ...], json.loads(text), "standings"))
