"""What the loop costs the client: python -m bench.loop. Prints a table; times nothing in a test.

Everything that is done for a step of 32 rows of 400 tokens (batch, weights, checks, datums of the SDK, sums, record),
around a server that answers at once. Target: below 5 ms of CPU, so that the client is never why a GPU waits.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from services.store.records import Hyperparameters
from services.trainer.backend import Adam, Logprobs
from services.trainer.rows import Row
from services.trainer.tuft import TuftBackend, TuftSettings
from services.trainer.weighting import Weights
from tests.support.trainer_parts import MemoryJournal, plan, row, run

Value = TypeVar("Value")

ROUNDS = 5  #: medians of this many
ROWS = 32  #: rows of a step
LENGTH = 400  #: tokens of a row


@dataclass(frozen=True, slots=True)
class Done(Generic[Value]):
    """An operation that is over."""

    value: Value

    def result(self) -> Value:
        """At once."""
        return self.value


class InstantServer(TuftBackend):
    """Makes every datum as for the real server, and answers without one."""

    def __init__(self) -> None:
        self._settings = TuftSettings("http://nowhere", "tml-none")

    def forward_backward(self, rows: Sequence[Row], weights: Sequence[Weights]) -> Done[Sequence[Logprobs]]:  # type: ignore[override]
        self._data(rows, weights)
        return self.forward(rows)

    def forward(self, rows: Sequence[Row]) -> Done[Sequence[Logprobs]]:  # type: ignore[override]
        answers: list[Logprobs] = [np.full(one.length - 1, -1.0, np.float32) for one in rows]
        return Done(answers)

    def optim_step(self, adam: Adam) -> Done[None]:  # type: ignore[override]
        return Done(None)

    def save_state(self, name: str) -> Done[str]:  # type: ignore[override]
        return Done(f"tinker://run/weights/{name}")

    def check_alive(self) -> None:
        return None


def main() -> None:
    """Runs everything and prints the table."""
    loops = [looping() for _ in range(ROUNDS)]
    print(f"{'what':<40}{'median':>10}{'worst':>10}")
    print(f"{f'CPU of the loop, ms a step of {ROWS} rows':<40}{statistics.median(loops):>10.3f}{max(loops):>10.3f}")


def looping(steps: int = 50) -> float:
    """Milliseconds of the client's own work per step of 32 rows."""
    rows = [row(n, [7] * LENGTH, [0.0] * (LENGTH // 2) + [1.0] * (LENGTH // 2 - 1)) for n in range(ROWS * 4)]
    made = plan(Hyperparameters(max_steps=steps, batch_size=ROWS, checkpoint_every=0), train=rows)
    loop = run(made, InstantServer(), MemoryJournal())
    begun = time.process_time()
    loop.train(0, save_first=False, evaluate_first=False)
    return (time.process_time() - begun) * 1000 / steps


if __name__ == "__main__":
    main()
