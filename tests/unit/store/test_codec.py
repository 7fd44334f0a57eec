"""Records to JSON and back: exact, tolerant of growth, clear about what can't be read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.store.codec import RecordNotReadable, decode, encode
from services.store.records import (
    EDGES,
    HELD,
    TERMINAL,
    DatasetRecord,
    DatasetSource,
    DatasetState,
    ErrorRecord,
    GpuRecord,
    Histogram,
    HostRecord,
    Hyperparameters,
    IssueRecord,
    JobSpec,
    JobState,
    Schedule,
    StartFrom,
    StepRecord,
    SweepAxis,
    SweepRecord,
)
from services.store.scripts import source
from services.store.steps import decode_step, encode_step
from turnloom.v1 import training_pb2

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    nll=finite,
    weight=st.floats(min_value=5e-324, allow_infinity=False),
    test=st.none() | finite,
    seconds=st.dictionaries(st.text(), finite),
)
def test_every_float_of_a_step_survives(
    nll: float, weight: float, test: float | None, seconds: dict[str, float]
) -> None:
    record = StepRecord(
        3, 2, nll_sum=nll, weight_sum=weight, phase_seconds=seconds, test_nll_sum=test,
        test_weight_sum=None if test is None else weight, gpu_memory_bytes=2**40,
    )  # fmt: skip
    assert decode_step(encode_step(record)) == record
    assert decode(StepRecord, encode(record)) == record


def test_nested_records_survive() -> None:
    for record in (
        JobSpec("m", "t", "d", hyperparameters=Hyperparameters(schedule=Schedule.COSINE, max_steps=7),
                metadata={"ключ": "значение"}, start_from=StartFrom("job-1", "c", True)),
        DatasetRecord("ds-1", "{}", DatasetState.FAILED, issues=(IssueRecord(3, "too_long", "x", message_index=0),),
                      error=ErrorRecord("A", "b"), length_histogram=Histogram((1, 2), (3, 4, 5)),
                      source=DatasetSource("hub", column_mapping={"messages": "x"})),
        HostRecord("h", (GpuRecord("H200", memory_bytes=2**37),)),
        SweepRecord("sweep-1", (SweepAxis("lora_rank", (8.0, 16.0)),), jobs=("a", "b")),
    ):  # fmt: skip
        assert decode(type(record), encode(record)) == record


def test_an_older_record_takes_defaults_and_a_newer_one_is_still_read() -> None:
    text = json.loads(encode(HostRecord("h")))
    del text["workers"]
    text["from_the_future"] = [1]
    assert decode(HostRecord, json.dumps(text)) == HostRecord("h")
    short = json.loads(encode_step(StepRecord(1, 1, nll_sum=1.0, weight_sum=1.0)))[:10]
    assert decode_step(json.dumps(short)) == StepRecord(1, 1, nll_sum=1.0, weight_sum=1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "HostRecord: not JSON"),
        ("[]", "HostRecord: expected dict, found list"),
        ("{}", r"HostRecord\.name: missing"),
        ('{"name": 3}', r"HostRecord\.name: expected str, found int"),
        ('{"name": "h", "gpus": [{"name": "g"}, {"uuid": "u"}]}', r"HostRecord\.gpus\[1\]\.name: missing"),
        ('{"name": "h", "backend_up": 1}', r"HostRecord\.backend_up: expected bool, found int"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(RecordNotReadable, match=message):
        decode(HostRecord, text)
    with pytest.raises(RecordNotReadable, match=r"DatasetRecord\.state: 'new' is no DatasetState"):
        decode(DatasetRecord, '{"id": "ds", "options_json": "{}", "state": "new"}')
    with pytest.raises(RecordNotReadable, match="StepRecord: expected a list"):
        decode_step("{}")


def test_hyperparameters_have_the_fields_of_the_contract() -> None:
    assert [item.name for item in fields(Hyperparameters)] == [
        item.name for item in training_pb2.Hyperparameters.DESCRIPTOR.fields
    ]


def test_steps_have_the_fields_of_the_contract() -> None:
    assert {item.name for item in fields(StepRecord)} == {item.name for item in training_pb2.Step.DESCRIPTOR.fields}


def test_states_and_edges_are_those_of_the_contract() -> None:
    names = {value.name.removeprefix("JOB_STATE_") for value in training_pb2.JobState.DESCRIPTOR.values}
    assert {state.name for state in JobState} == names - {"UNSPECIFIED"}
    assert set(EDGES) == set(JobState)
    assert not EDGES[JobState.SUCCEEDED]
    assert {state for state, following in EDGES.items() if JobState.RUNNING in following} == {JobState.QUEUED}
    assert not TERMINAL & HELD


def test_scripts_carry_the_table_of_edges() -> None:
    text = source("claim")
    assert "validating = {failed = true, queued = true}" in text
    assert "local TERMINAL = {cancelled = true, failed = true, succeeded = true}" in text
    assert "nll_sum = 9" in text


def test_records_refuse_what_is_not_finite() -> None:
    record = StepRecord(1, 1, nll_sum=1.0, weight_sum=1.0)
    for name in ("nll_sum", "weight_sum", "objective", "learning_rate"):
        with pytest.raises(ValueError, match=f"step 1: {name} is inf, only finite numbers enter the ledger"):
            replace(record, **{name: float("inf")})


@dataclass(frozen=True, slots=True)
class Small:
    pair: tuple[float, ...] = field(default_factory=tuple)


def test_a_whole_number_in_a_float_field_is_a_float() -> None:
    found = decode(Small, '{"pair": [1, 2.5]}')
    assert found == Small((1.0, 2.5))
    assert all(type(value) is float for value in found.pair)
