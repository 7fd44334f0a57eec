"""Every hyperparameter: default when absent, refused with field, value and limit when out of range."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.preprocess.domain.limits import Violations
from services.preprocess.domain.refusals import InvalidRequest
from services.preprocess.wire.hyperparameters import FLAGS, RANGES, hyperparameters, hyperparameters_message
from services.store.records import Hyperparameters, Schedule, WeightNormalization
from turnloom.v1 import training_pb2 as pb


def read(message: pb.Hyperparameters) -> Hyperparameters:
    violations = Violations()
    value = hyperparameters(message, "hyperparameters", violations)
    violations.refuse()
    return value


def refused(**values: object) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        read(pb.Hyperparameters(**values))  # type: ignore[arg-type]
    return {item.field: item.description for item in caught.value.violations}


def test_absent_fields_take_the_documented_defaults() -> None:
    assert read(pb.Hyperparameters()) == Hyperparameters()


def test_every_field_of_the_contract_is_read() -> None:
    contract = {field.name for field in pb.Hyperparameters.DESCRIPTOR.fields}
    assert contract == {*RANGES, *FLAGS, "schedule", "weight_normalization"}
    assert contract == {item.name for item in fields(Hyperparameters)}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"lora_rank": 0}, "is 0; give 1 to 4096."),
        ({"learning_rate": 0.0}, "is 0; give a number above 0 and at most 1."),
        ({"learning_rate": -1e-4}, "is -0.0001; give a number above 0 and at most 1."),
        ({"learning_rate": math.nan}, "is nan; give a number above 0 and at most 1."),
        ({"learning_rate": math.inf}, "is inf; give a number above 0 and at most 1."),
        ({"epochs": 0}, "is 0; give 1 to 10000."),
        ({"max_steps": 0}, "is 0; give 1 to 1e+07."),
        ({"batch_size": 0}, "is 0; give 1 to 65536."),
        ({"max_length": 1}, "is 1; give 2 to 131072."),
        ({"pipeline_depth": 9}, "is 9; give 1 to 8."),
        ({"pipeline_depth": 0}, "is 0; give 1 to 8."),
        ({"beta1": 1.0}, "is 1; give a number of at least 0 and below 1."),
        ({"beta2": -0.1}, "is -0.1; give a number of at least 0 and below 1."),
        ({"epsilon": 0.0}, "is 0; give 1e-30 to 1."),
        ({"epsilon": 1e-50}, "is 1e-50; give 1e-30 to 1."),
        ({"weight_decay": -1.0}, "is -1; give 0 to 10."),
        ({"grad_clip_norm": -1.0}, "is -1; give 0 to 1e+06."),
        ({"checkpoint_every_seconds": 0}, "is 0; give 1 to 86400."),
        ({"early_stopping_min_delta": -0.5}, "is -0.5; give 0 to 1e+06."),
        ({"keep_checkpoints": 0}, "is 0; give 1 to 1000."),
    ],
)
def test_what_is_out_of_range_names_field_value_and_limit(values: dict[str, object], sentence: str) -> None:
    assert refused(**values) == {f"hyperparameters.{next(iter(values))}": sentence}


@pytest.mark.parametrize("name", ["schedule", "weight_normalization"])
def test_an_explicit_unspecified_is_refused(name: str) -> None:
    assert refused(**{name: 0})[f"hyperparameters.{name}"].startswith("is not set; choose one of ")
    assert refused(**{name: 9})[f"hyperparameters.{name}"].startswith("is 9, which this server does not know")


def test_epochs_and_steps_together_are_refused() -> None:
    assert refused(epochs=1, max_steps=5) == {
        "hyperparameters.max_steps": "is set together with epochs; set one of them."
    }


def test_a_job_that_would_train_nothing_is_refused() -> None:
    said = refused(train_mlp=False, train_attn=False, train_unembed=False)
    assert said == {"hyperparameters.train_mlp": "all of train_mlp, train_attn and train_unembed are false; set one."}


@given(
    st.builds(
        Hyperparameters,
        lora_rank=st.integers(1, 4096),
        train_unembed=st.booleans(),
        learning_rate=st.floats(1e-300, 1),
        schedule=st.sampled_from(Schedule),
        warmup_steps=st.integers(0, 1000),
        batch_size=st.integers(1, 65_536),
        max_length=st.none() | st.integers(2, 131_072),
        seed=st.integers(-(2**63), 2**63 - 1),
        max_steps=st.none() | st.integers(1, 10_000_000),
        beta2=st.floats(0, 1, exclude_max=True),
        weight_normalization=st.sampled_from(WeightNormalization),
    )
)
def test_hyperparameters_survive_the_wire(value: Hyperparameters) -> None:
    assert read(pb.Hyperparameters.FromString(hyperparameters_message(value).SerializeToString())) == value
