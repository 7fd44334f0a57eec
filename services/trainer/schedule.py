"""Learning rate schedule: a pure function of the step, so that a resumed run sees the same values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from services.store.records import Schedule

#: What is left of the peak rate at `progress`: 0.0 at the first step after the warm-up, 1.0 just after the last step.
DECAY: Final[dict[Schedule, Callable[[float], float]]] = {
    Schedule.CONSTANT: lambda _progress: 1.0,
    Schedule.LINEAR: lambda progress: 1.0 - progress,
    Schedule.COSINE: lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


def learning_rate(step: int, *, steps: int, peak: float, schedule: Schedule, warmup_steps: int) -> float:
    """Return the rate of optimizer step `step`.

    The warm-up rises linearly and reaches the peak at its last step. The decay would reach 0 one step after the last,
    so that no step is wasted at rate 0.

    Args:
        step: 1 for the first step.
        steps: planned steps of the whole job.
        peak: highest rate, > 0.
        schedule: how it moves after the warm-up.
        warmup_steps: steps of the warm-up, 0 for none.

    Raises:
        ValueError: the step is outside 1..steps.
    """
    if not 1 <= step <= steps:
        raise ValueError(f"step {step} is outside 1..{steps}")
    if step <= warmup_steps:
        return peak * (step / warmup_steps)
    return peak * DECAY[schedule]((step - 1 - warmup_steps) / (steps - warmup_steps))
