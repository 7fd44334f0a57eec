"""What `turnloom hosts` says of a model that a host trains."""

from __future__ import annotations

import pytest

from turnloom.cli.hosts import _model
from turnloom.v1 import training_pb2 as tr


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (tr.ServedModel(name="m"), "m"),  # a server that has not loaded it, or a host of an earlier version
        (tr.ServedModel(name="m", accelerated=True, max_tokens_per_pass=32768), "m (accelerated)"),
        (tr.ServedModel(name="m", accelerated=True, samples=False), "m (accelerated, not sampled)"),
        (tr.ServedModel(name="m", samples=True), "m (sampled)"),
        (
            tr.ServedModel(name="m", accelerated=False, not_accelerated="there is no CUDA GPU"),
            "m (not accelerated: there is no CUDA GPU)",
        ),
    ],
)
def test_a_model_is_named_with_how_it_is_trained_where_that_is_known(served: tr.ServedModel, said: str) -> None:
    assert _model(served) == said
