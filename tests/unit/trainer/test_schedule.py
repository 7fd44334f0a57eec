"""Learning rates and weight normalization."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.store.records import Schedule, WeightNormalization
from services.trainer.batches.weighting import NORMALIZATION, weighted_nll
from services.trainer.schedule import learning_rate
from tests.support.trainer_parts import conversations, row


def rates(schedule: Schedule, steps: int, warmup: int = 0, peak: float = 1.0) -> list[float]:
    return [
        learning_rate(step, steps=steps, peak=peak, schedule=schedule, warmup_steps=warmup)
        for step in range(1, steps + 1)
    ]


def test_constant_stays() -> None:
    assert rates(Schedule.CONSTANT, 5, peak=1e-4) == [1e-4] * 5


def test_linear_falls_by_equal_parts_and_would_be_zero_after_the_last_step() -> None:
    assert rates(Schedule.LINEAR, 4) == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    values = rates(Schedule.COSINE, 4)
    assert values[0] == 1.0
    assert values[2] == pytest.approx(0.5)
    assert values[3] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.75)))


def test_the_warm_up_rises_linearly_and_reaches_the_peak_at_its_last_step() -> None:
    assert rates(Schedule.LINEAR, 6, warmup=2) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


@given(schedule=st.sampled_from(Schedule), steps=st.integers(1, 200), warmup=st.integers(0, 250))
def test_every_rate_is_above_zero_and_at_most_the_peak(schedule: Schedule, steps: int, warmup: int) -> None:
    values = rates(schedule, steps, warmup, peak=3e-4)
    assert all(0 < value <= 3e-4 for value in values)
    after = values[warmup:]
    assert after == sorted(after, reverse=True)


@pytest.mark.parametrize("step", [0, 11])
def test_a_step_outside_the_plan_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=r"outside 1\.\.10"):
        learning_rate(step, steps=10, peak=1.0, schedule=Schedule.CONSTANT, warmup_steps=0)


def test_normalized_weights_sum_to_what_their_name_says() -> None:
    rows = conversations(5)
    as_they_are = NORMALIZATION[WeightNormalization.NONE](rows)
    assert all((sent == one.target_weights).all() for sent, one in zip(as_they_are, rows, strict=True))
    per_example = NORMALIZATION[WeightNormalization.PER_EXAMPLE](rows)
    assert [float(sent.sum()) for sent in per_example] == pytest.approx([1.0] * len(rows), rel=1e-6)
    per_batch = NORMALIZATION[WeightNormalization.PER_BATCH](rows)
    assert sum(float(sent.sum()) for sent in per_batch) == pytest.approx(1.0, rel=1e-6)


def test_an_impossible_token_without_weight_does_not_poison_the_sum() -> None:
    one = row(0, [1, 2, 3], [0.0, 2.0])
    assert weighted_nll(np.array([-np.inf, -0.5], np.float32), one.target_weights) == 1.0


def test_a_nan_under_weight_stays_a_nan() -> None:
    one = row(0, [1, 2, 3], [1.0, 1.0])
    assert math.isnan(weighted_nll(np.array([np.nan, -0.5], np.float32), one.target_weights))
