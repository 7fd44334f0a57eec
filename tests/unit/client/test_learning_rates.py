"""`--lr auto`: rules for any size, and the table of the guide."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnloom.errors import InvalidInput
from turnloom.learning_rates import KNOWN, TABLE, parameters, suggest

GUIDE = (Path(__file__).resolve().parents[3] / "docs/guide.md").read_text(encoding="utf-8")
BILLIONS = st.floats(0.1, 999).map(lambda size: round(size, 1))


@given(BILLIONS, BILLIONS, st.integers(1, 512))
def test_a_larger_model_never_takes_a_larger_rate(one: float, other: float, batch_size: int) -> None:
    small, large = sorted((one, other))
    assert suggest(f"x-{small}B", batch_size).rate >= suggest(f"x-{large}B", batch_size).rate


@given(BILLIONS, st.integers(1, 128))
def test_a_batch_four_times_as_large_takes_twice_the_rate(size: float, batch_size: int) -> None:
    once, fourfold = suggest(f"x-{size}B", batch_size).rate, suggest(f"x-{size}B", 4 * batch_size).rate
    assert fourfold == pytest.approx(2 * once, rel=0.1)  # both are rounded to two digits


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen3-4B-Instruct-2507", 4),
        ("Qwen/Qwen3-0.6B", 0.6),
        ("Qwen/Qwen3-30B-A3B", 30),
        ("meta-llama/Llama-3.1-8B-Instruct", 8),
        ("HuggingFaceTB/SmolLM2-135M", 0.135),
        ("gpt2", None),
        ("org4B/name", None),
    ],
)
def test_the_size_is_read_from_the_name(name: str, billions: float | None) -> None:
    assert parameters(name) == billions


def test_a_name_without_a_size_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidInput, match="the name gpt2 says no size") as caught:
        suggest("gpt2", 16)
    assert caught.value.hint.startswith("Give a rate")


def test_the_guide_has_the_same_table() -> None:
    told = [float(rate) for rate in re.findall(r"^  \| [^|]*\d+B[^|]*\| ([\d.e-]+) \|$", GUIDE, re.MULTILINE)]
    assert told == [rate for _, rate in TABLE]
    bounds = [float(bound) for bound in re.findall(r"^  \| below (\d+)B", GUIDE, re.MULTILINE)]
    assert [*bounds, math.inf] == [bound for bound, _ in TABLE]
    assert f"takes {KNOWN['turnloom/tiny-qwen3']:.0e}".replace("e-0", "e-") in GUIDE
