"""Write the steps of runs as OpenMetrics text with each step's time. Imports no Prometheus library.

`promtool tsdb create-blocks-from openmetrics` turns the text into blocks. Any Prometheus can then show a run, even one
that never scraped it. Format: OpenMetrics 1.0 (a family's samples stand together, times never go back).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from turnloom.results.runs import Run, test_nll, train_nll
from turnloom.v1.training_pb2 import Step

SOURCE: Final = (
    "turnloom-export"  #: label `job`: tells imported series, the effective run, from scraped ones, work done
)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric and how to read its value from a step. Names are those of docs/monitoring.md."""

    name: str  #: without _total
    help: str
    value: Callable[[Step], float | None]  #: None: this step has no sample
    split: str = ""  #: label, where the metric has one
    counter: bool = False  #: the sample is the sum of all values up to this step


def _trained(value: Callable[[Step], float]) -> Callable[[Step], float | None]:
    """Return 0 for step 0, which trains nothing, and the value for all others."""
    return lambda step: value(step) if step.step else 0.0


def _tested(value: Callable[[Step], float]) -> Callable[[Step], float | None]:
    return lambda step: value(step) if step.HasField("test_nll_sum") else None


def _learned(value: Callable[[Step], float | None]) -> Callable[[Step], float | None]:
    return lambda step: value(step) if step.step else None


NLL: Final = ("turnloom_run_nll_nats", "Nats: sum of -logprob times weight, unnormalized weights.")
WEIGHT: Final = ("turnloom_run_loss_weight", "Sum of target weights.")
BYTES: Final = ("turnloom_run_target_bytes", "UTF-8 bytes of the trained text.")
FAMILIES: Final[Sequence[Family]] = (
    Family(*NLL, _trained(lambda step: step.nll_sum), "train", counter=True),
    Family(*NLL, _tested(lambda step: step.test_nll_sum), "test", counter=True),
    Family(*WEIGHT, _trained(lambda step: step.weight_sum), "train", counter=True),
    Family(*WEIGHT, _tested(lambda step: step.test_weight_sum), "test", counter=True),
    Family(*BYTES, _trained(lambda step: step.target_bytes), "train", counter=True),
    Family(*BYTES, _tested(lambda step: step.test_target_bytes), "test", counter=True),
    Family("turnloom_run_steps", "Optimizer steps.", _trained(lambda step: 1), counter=True),
    Family("turnloom_run_tokens", "Tokens of trained rows.", _trained(lambda step: step.tokens), counter=True),
    Family("turnloom_run_loss_tokens", "Targets with weight.", _trained(lambda step: step.loss_tokens), counter=True),
    Family("turnloom_run_examples", "Rows.", _trained(lambda step: step.rows), counter=True),
    Family("turnloom_run_step", "Step of the run.", lambda step: step.step),
    Family("turnloom_run_epoch", "Epoch of the step, from 1.", _learned(lambda step: step.epoch)),
    Family("turnloom_run_learning_rate", "Of the step.", _learned(lambda step: step.learning_rate)),
    Family("turnloom_run_last_train_nll_nats", "Nats per unit of weight, of the step.", _learned(train_nll)),
    Family("turnloom_run_test_nll_nats", "Nats per unit of weight, where evaluated.", test_nll),
)


def openmetrics(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the lines of the text: family by family, and in each the runs in their order."""
    times = [list(_milliseconds(run.steps)) for run in runs]
    before = ""
    for family in FAMILIES:
        if family.name != before:
            yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {_type(family)}\n"
        before = family.name
        for run, moments in zip(runs, times, strict=True):
            yield from _series(family, run, moments)
    yield "# EOF\n"


def _series(family: Family, run: Run, times: Sequence[int]) -> Iterator[str]:
    """Yield the samples of one run; its times are in milliseconds."""
    split = f',split="{family.split}"' if family.split else ""
    head = f'{family.name}{"_total" if family.counter else ""}{{job="{SOURCE}",run_id="{_escaped(run.job.id)}"{split}}}'
    found = [
        (time, value) for time, step in zip(times, run.steps, strict=True) if (value := family.value(step)) is not None
    ]
    values: Iterable[float] = (value for _, value in found)
    for (time, _), value in zip(found, accumulate(values) if family.counter else values, strict=True):
        yield f"{head} {_number(value)} {time // 1000}.{time % 1000:03d}\n"


def _type(family: Family) -> str:
    return "counter" if family.counter else "gauge"


def _milliseconds(steps: Iterable[Step]) -> Iterator[int]:
    """Yield the steps' times in ms since 1970, Prometheus' resolution, each after the one before.

    Steps may take less than a millisecond, and the clocks of two workers of one run may differ.
    """
    last = 0
    for step in steps:
        last = max(last + 1, step.time.ToMilliseconds())
        yield last


def _number(value: float) -> str:
    """Format a float with all digits, so that it reads back exactly."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
