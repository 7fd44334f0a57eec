"""How several models share the GPUs of a benchmark."""

from __future__ import annotations

import pytest

from bench.gpu.parts import shared


@pytest.mark.parametrize(
    ("gpus", "entries", "expected"),
    [("3", 1, "3"), ("3", 3, "3,1000,1001"), ("0,1", 0, "0,1"), ("GPU-a", 2, "GPU-a,1000")],
)
def test_ray_counts_as_many_gpus_as_models_and_cuda_sees_the_real_ones(gpus: str, entries: int, expected: str) -> None:
    assert shared(gpus, entries) == expected
