"""A job and its steps as numbers to compare: curves, axes, keys of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from turnloom.v1 import training_pb2

if TYPE_CHECKING:
    from turnloom.wire.evaluations import Evaluation

Curve: TypeAlias = "Sequence[tuple[int, float]]"  # (step, nats per unit of weight), steps ascending
Value: TypeAlias = "int | float | str | bool"
JOB: Final = "job"  #: the axis of runs that differ in no hyperparameter


def train_nll(step: training_pb2.Step) -> float | None:
    """Return the masked NLL of the step's batch, nats per unit of weight; None for step 0."""
    return step.nll_sum / step.weight_sum if step.weight_sum > 0 else None


def test_nll(step: training_pb2.Step) -> float | None:
    """Return the NLL on the test dataset after the step, where evaluated."""
    return step.test_nll_sum / step.test_weight_sum if step.test_weight_sum > 0 else None


@dataclass(frozen=True, slots=True)
class Run:
    """One job with the effective series of its steps."""

    job: training_pb2.Job
    steps: Sequence[training_pb2.Step]  #: ascending; step 0, with an evaluation only, where there is one
    losses: Mapping[int, Evaluation] = field(default_factory=dict)  #: evaluations by example that were fetched, by step
    contents: Mapping[str, str] = field(default_factory=dict)  #: dataset id -> sha256 of its rows, where it is known

    @property
    def tested_on(self) -> str:
        """Content of the test dataset: equal for two datasets of the same rows."""
        return self.contents.get(self.job.test_dataset) or self.job.test_dataset

    @property
    def trained_on(self) -> str:
        """Content of the training dataset, likewise."""
        parts = sorted((self.contents.get(part.dataset) or part.dataset, part.weight) for part in self.job.mix)
        mixed = " + ".join(f"{weight:g} {content}" for content, weight in parts)
        return mixed or self.contents.get(self.job.training_dataset) or self.job.training_dataset

    @property
    def training_name(self) -> str:
        """Return the id of the training dataset; of a mixture "ds-1=0.7 + ds-2=0.3"."""
        return " + ".join(f"{part.dataset}={part.weight:g}" for part in self.job.mix) or self.job.training_dataset

    @property
    def test(self) -> Curve:
        """Test NLL at every evaluation."""
        return [(step.step, nll) for step in self.steps if (nll := test_nll(step)) is not None]

    def until(self, step: int) -> Run:
        """Return the run as it stood after a step."""
        return replace(self, steps=[one for one in self.steps if one.step <= step])

    @property
    def train(self) -> Curve:
        """Mean NLL over the trained tokens of each step's batch."""
        return [(step.step, nll) for step in self.steps if (nll := train_nll(step)) is not None]

    def mean_train(self, after: int, until: int) -> float | None:
        """Return the token-weighted mean train NLL over steps in (after, until]; None: there are none."""
        inside = [step for step in self.steps if after < step.step <= until]
        weight = sum(step.weight_sum for step in inside)
        return sum(step.nll_sum for step in inside) / weight if weight > 0 else None

    def value(self, axis: str) -> Value:
        """Return the hyperparameter of that name, enums by number; for "job" the id."""
        found = self.job.id if axis == JOB else getattr(self.job.hyperparameters, axis)
        assert isinstance(found, int | float | str)
        return found

    def values(self, axes: Sequence[str]) -> tuple[Value, ...]:
        """Return the run's place in a grid."""
        return tuple(self.value(axis) for axis in axes)


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the hyperparameters that differ, rank and rate first; with "job" where none tell runs apart."""
    first = ("lora_rank", "learning_rate")
    names = [
        *first,
        *(field.name for field in training_pb2.Hyperparameters.DESCRIPTOR.fields if field.name not in first),
    ]
    axes = [name for name in names if len({run.value(name) for run in runs}) > 1]
    if len({run.values(axes) for run in runs}) < len(runs):
        axes.append(JOB)
    return axes


SHORT: Final[Mapping[str, str]] = {"lora_rank": "rank", "learning_rate": "rate"}


def written(value: Value) -> str:
    """Format a value: 1e-4 for 0.0001, integers with all digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not isinstance(value, bool):
        short = f"{value:g}"
        if value != 0 and abs(value) <= 0.01:
            mantissa, _, exponent = f"{value:.6e}".partition("e")
            short = f"{float(mantissa):g}e{int(exponent)}"
        return short
    return str(value)


def label(axes: Sequence[str], values: Sequence[Value]) -> str:
    """Return a label: "rank 8, rate 1e-4"; a job's id says itself that it is one."""
    named = zip(axes, values, strict=True)
    return ", ".join(f"{'' if axis == JOB else f'{SHORT.get(axis, axis)} '}{written(value)}" for axis, value in named)
