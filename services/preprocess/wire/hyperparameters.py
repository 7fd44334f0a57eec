"""Read hyperparameters from the wire, checking every range, and write them back with defaults filled in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from services.preprocess.domain.limits import MAX_LENGTH, Violations
from services.preprocess.wire.enums import EnumTable
from services.store.records import Hyperparameters, Schedule, WeightNormalization
from turnloom.v1 import training_pb2 as pb

SCHEDULE: Final = EnumTable(pb.Schedule.DESCRIPTOR, "SCHEDULE", Schedule)
WEIGHT_NORMALIZATION: Final = EnumTable(pb.WeightNormalization.DESCRIPTOR, "WEIGHT_NORMALIZATION", WeightNormalization)


@dataclass(frozen=True, slots=True)
class Range:
    """The range that a number may take."""

    low: float
    high: float
    open_low: bool = False  #: low itself is refused
    open_high: bool = False  #: high itself is refused

    def holds(self, value: float) -> bool:
        """Return whether the value is finite and inside."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        """Return the range as the end of a sentence, behind "give"."""
        if not (self.open_low or self.open_high):
            return f"{self.low:g} to {self.high:g}"
        low = f"a number above {self.low:g}" if self.open_low else f"a number of at least {self.low:g}"
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high:g}"


#: Every number of Hyperparameters. Upper bounds only keep typing errors out; hosts have tighter ones.
RANGES: Final[Mapping[str, Range]] = {
    "lora_rank": Range(1, 4096),
    "learning_rate": Range(0, 1, open_low=True),
    "warmup_steps": Range(0, 10_000_000),
    "epochs": Range(1, 10_000),
    "max_steps": Range(1, 10_000_000),
    "batch_size": Range(1, 65_536),
    "max_length": Range(2, MAX_LENGTH),
    "seed": Range(-(2**63), 2**63),
    "eval_every": Range(0, 10_000_000),
    "checkpoint_every": Range(0, 10_000_000),
    "checkpoint_every_seconds": Range(1, 86_400),
    "pipeline_depth": Range(1, 8),
    "beta1": Range(0, 1, open_high=True),
    "beta2": Range(0, 1, open_high=True),
    "epsilon": Range(1e-30, 1),  # a smaller one is 0 in float32, and 0 / 0 where a gradient is 0
    "weight_decay": Range(0, 10),
    "grad_clip_norm": Range(0, 1e6),
    "max_tokens_per_call": Range(0, 10_000_000),
    "early_stopping_patience": Range(0, 1_000_000),
    "early_stopping_min_delta": Range(0, 1e6),
    "keep_checkpoints": Range(1, 1_000),
}
DEFAULTS: Final = Hyperparameters()
FLAGS: Final = ("train_mlp", "train_attn", "train_unembed")


def hyperparameters(message: pb.Hyperparameters, field: str, violations: Violations) -> Hyperparameters:
    """Read what is set, take defaults for what is absent, add a violation for everything out of range."""
    values: dict[str, object] = {}
    for name, allowed in RANGES.items():
        if not message.HasField(name):  # type: ignore[arg-type]  # names are literals to the stubs
            continue
        value = getattr(message, name)
        values[name] = value
        if not allowed.holds(value):
            violations.add(f"{field}.{name}", f"is {value:g}; give {allowed}.")
    for name in FLAGS:
        if message.HasField(name):  # type: ignore[arg-type]
            values[name] = getattr(message, name)
    if not any(values.get(name, True) for name in FLAGS):
        violations.add(f"{field}.train_mlp", "all of train_mlp, train_attn and train_unembed are false; set one.")
    if message.HasField("epochs") and message.HasField("max_steps"):
        violations.add(f"{field}.max_steps", "is set together with epochs; set one of them.")
    values["schedule"] = SCHEDULE.optional(
        message.HasField("schedule"), message.schedule, DEFAULTS.schedule, f"{field}.schedule", violations
    )
    values["weight_normalization"] = WEIGHT_NORMALIZATION.optional(
        message.HasField("weight_normalization"),
        message.weight_normalization,
        DEFAULTS.weight_normalization,
        f"{field}.weight_normalization",
        violations,
    )
    return Hyperparameters(**values)  # type: ignore[arg-type]  # names and types are proved by the round trip test


def hyperparameters_message(value: Hyperparameters) -> pb.Hyperparameters:
    """Return all fields, defaults filled in; max_steps and max_length stay absent where they are not set."""
    message = pb.Hyperparameters()
    for item in fields(value):
        found = getattr(value, item.name)
        match found:
            case None:
                continue
            case Schedule():
                message.schedule = SCHEDULE.to_wire[found]  # type: ignore[assignment]
            case WeightNormalization():
                message.weight_normalization = WEIGHT_NORMALIZATION.to_wire[found]  # type: ignore[assignment]
            case _:
                setattr(message, item.name, found)
    if value.max_steps is not None:
        message.ClearField("epochs")  # without effect, and a request with both is refused
    return message
