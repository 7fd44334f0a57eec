"""A caller's rate holds over any time, whatever it sends when; and nobody pays for another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.preprocess.api.auth.rate_limit import BURST_SECONDS, Rates
from services.preprocess.domain.refusals import RateExceeded

STEPS = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 512)), max_size=60)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.floats(0.5, 5_000), STEPS)
def test_no_pattern_of_calls_gets_more_than_burst_and_rate(rate: float, steps: list[tuple[float, int]]) -> None:
    clock, passed = Clock(), 0
    rates = Rates(rate, at_least=512, clock=clock)
    for pause, count in steps:
        clock.now += pause
        try:
            rates.take("ann", count)
            passed += count
        except RateExceeded:
            pass
    assert passed <= max(rate * BURST_SECONDS, 512) + rate * clock.now + 1e-6


@given(st.floats(0.5, 5_000), STEPS)
def test_a_refused_call_passes_after_the_wait_that_it_was_told(rate: float, steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    rates = Rates(rate, at_least=512, clock=clock)
    for pause, count in steps:
        clock.now += pause
        try:
            rates.take("ann", count)
        except RateExceeded as error:
            clock.now += error.wait + 1e-6
            rates.take("ann", count)


def test_a_stream_waits_instead_up_to_its_patience() -> None:
    rates = Rates(10, at_least=100, clock=Clock())
    assert rates.take("ann", 100, patience=30) == 0
    assert rates.take("ann", 50, patience=30) == 5
    assert rates.take("ann", 250, patience=30) == 30
    with pytest.raises(RateExceeded) as caught:
        rates.take("ann", 10, patience=30)
    assert caught.value.wait == pytest.approx(1)
    assert str(caught.value) == "More than 10 conversations a second came with this token; wait 1.0 s."


def test_one_caller_never_pays_for_another() -> None:
    rates = Rates(1, at_least=512, clock=Clock())
    rates.take("ann", 512)
    rates.take("bob", 512)
    with pytest.raises(RateExceeded):
        rates.take("ann", 1)


def test_rate_0_is_no_limit() -> None:
    assert Rates(0, at_least=1).take("ann", 10**9) == 0
