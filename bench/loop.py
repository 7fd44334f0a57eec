"""What the loop costs the client: python -m bench.loop. Prints a table; times nothing in a test.

Two things are measured for a step of 32 rows, lengths like no_robots': our own work (batch, weights, checks, datums of
the SDK, sums, record) around a server that answers at once, and the whole process with the SDK's thread in front of the
fake TuFT, which takes a step's time of a GPU. Target: below 15 ms of CPU a step where a step is one call.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar
from unittest import mock

from bench.program import DEV, libraries, usage

PROGRAM: Final = usage("bench.loop", __doc__)

with libraries(DEV, __name__, PROGRAM):
    import numpy as np

    from services.store.records import Hyperparameters, StepRecord
    from services.trainer import tuft
    from services.trainer.backend import Adam, Logprobs
    from services.trainer.batches.batching import MOST_CALL_TOKENS
    from services.trainer.batches.rows import Row
    from services.trainer.batches.weighting import Weights
    from services.trainer.connection.sdk_http import SdkHttp
    from services.trainer.loop import RunSpec
    from services.trainer.tuft import TuftBackend, TuftSettings, connect
    from tests.fakes.fake_tuft import FakeTuft
    from tests.support.trainer_parts import SMALL, MemoryJournal, plan, row, run, settings_of

Value = TypeVar("Value")

ROUNDS = 5  #: medians of this many
ROWS = 32  #: rows of a step
STEPS = 30
STEP_MILLISECONDS = 180.0  #: of the server, as an accelerated 0.6B takes on an H200
PASS_TOKENS = 32_768  #: of a server that packs


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds a step."""

    ours: float  #: of the thread that drives the loop
    sdk: float  #: of the SDK's thread and the tripwire
    calls: float  #: forward_backward calls a step


@dataclass(frozen=True, slots=True)
class Done(Generic[Value]):
    """An operation that is over."""

    value: Value

    def result(self) -> Value:
        """At once."""
        return self.value


class InstantServer(TuftBackend):
    """Makes every datum as for the real server, and answers without one."""

    def __init__(self, *, even: bool) -> None:
        self._settings = TuftSettings("http://nowhere", "tml-none")
        self.even = even

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


@dataclass
class Clock(MemoryJournal):
    """Notes at every step what the process and this thread have used."""

    marks: list[tuple[float, float]] = field(default_factory=list)  #: CPU seconds of the process, of this thread

    def step(self, record: StepRecord) -> None:
        super().step(record)
        self.marks.append((time.process_time(), time.thread_time()))

    def cost(self) -> Cost:
        """Without the first steps: the pipeline fills, connections open."""
        (begin, begin_ours), (end, end_ours) = self.marks[3], self.marks[-1]
        steps = len(self.marks) - 4
        ours = 1e3 * (end_ours - begin_ours) / steps
        return Cost(ours, 1e3 * (end - begin) / steps - ours, statistics.mean(one.calls for one in self.steps[3:]))


def planned(*, packs: bool) -> RunSpec:
    """Steps of 32 rows: median 360 tokens, mean about 420, at most 2,048; the first third of each is not trained."""
    draws = np.random.default_rng(0)
    lengths = np.clip(draws.lognormal(5.9, 0.6, ROWS * STEPS), 40, 2048).astype(int)
    rows = [
        row(number, draws.integers(0, 255, length).tolist(), [0.0] * (length // 3) + [1.0] * (length - 1 - length // 3))
        for number, length in enumerate(lengths.tolist())
    ]
    budget = PASS_TOKENS if packs else MOST_CALL_TOKENS
    hyper = Hyperparameters(
        max_steps=STEPS, batch_size=ROWS, checkpoint_every=0, lora_rank=4, max_tokens_per_call=budget
    )
    return plan(hyper, train=rows, ceiling=budget, packs=packs)


def alone(*, packs: bool) -> Cost:
    """Our own work, around a server that answers at once."""
    journal = Clock()
    run(planned(packs=packs), InstantServer(even=not packs), journal).train(0, save_first=False, untested=None)
    return journal.cost()


def through_sdk(*, packs: bool, own_http: bool = True) -> Cost:
    """The process of a job but for Redis, in front of the fake TuFT; `own_http`: with the client of sdk_http.py."""
    with (
        mock.patch.object(tuft, "SdkHttp", SdkHttp if own_http else lambda: None),
        tempfile.TemporaryDirectory() as folder,
    ):
        home = Path(folder) / "tuft"
        with FakeTuft(home, packs=PASS_TOKENS if packs else 0, persistence=False) as fake:
            fake.fault("optim_step", "slow", ms=STEP_MILLISECONDS)
            backend = connect(settings_of(fake), SMALL)
            backend.even = not packs
            journal = Clock()
            run(planned(packs=packs), backend, journal).train(0, save_first=False, untested=None)
            backend.close()
            return journal.cost()


def main() -> None:
    """Runs everything by turns and prints the table."""
    PROGRAM.parse_args()
    sys.modules["torch"] = None  # type: ignore[assignment]  # as in the worker's horse: the SDK would load it for nothing
    measures: Sequence[tuple[str, Callable[[], Cost]]] = (
        ("accelerated, around an instant server", lambda: alone(packs=True)),
        ("stock cut, around an instant server", lambda: alone(packs=False)),
        ("accelerated, through the SDK", lambda: through_sdk(packs=True)),
        ("accelerated, through the SDK and its own HTTP client", lambda: through_sdk(packs=True, own_http=False)),
        ("stock cut, through the SDK", lambda: through_sdk(packs=False)),
    )
    found: dict[str, list[Cost]] = {}
    for _ in range(ROUNDS):
        for name, measure in measures:
            found.setdefault(name, []).append(measure())
    print(f"| CPU ms a step of {ROWS} rows, median of {ROUNDS} | calls | ours | SDK | together |")
    print("|---|---|---|---|---|")
    for name, costs in found.items():
        ours, sdk = (statistics.median(getattr(cost, part) for cost in costs) for part in ("ours", "sdk"))
        calls = statistics.mean(cost.calls for cost in costs)
        print(f"| {name} | {calls:.1f} | {ours:.1f} | {sdk:.1f} | {ours + sdk:.1f} |")


if __name__ == "__main__":
    main()
