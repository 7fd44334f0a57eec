"""Options both ways: defaults as documented, enums refused where unset, and nothing lost on the way to a record."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.preprocess.domain.limits import MAX_LENGTH
from services.preprocess.domain.refusals import InvalidRequest
from services.preprocess.wire.options import (
    BEFORE,
    DEFAULTS,
    OPTIONAL_ENUMS,
    TRAIN_ON,
    options,
    options_from_json,
    options_to_json,
)
from turnloom.masks.domain.options import NextHeaderStop, Options, PartWeights, TrainOn
from turnloom.v1 import types_pb2 as pb


def message(**fields: object) -> pb.PreprocessOptions:
    base: dict[str, object] = {"model": "m", "train_on": pb.TRAIN_ON_ALL_ASSISTANT_MESSAGES}
    return pb.PreprocessOptions(**{**base, **fields})  # type: ignore[arg-type]


def refused(**fields: object) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        options(message(**fields))
    return {item.field: item.description for item in caught.value.violations}


def test_absent_fields_take_the_documented_defaults() -> None:
    assert options(message()) == Options()


def test_an_unset_train_on_is_the_default_and_an_unknown_one_is_refused_with_the_choices() -> None:
    assert options(message(train_on=0)).train_on is TrainOn.ALL_ASSISTANT_MESSAGES
    said = refused(train_on=99)
    assert said["options.train_on"].startswith("is 99, which this server does not know; choose one of TRAIN_ON_ALL_")


@pytest.mark.parametrize("name", OPTIONAL_ENUMS)
def test_an_explicit_unspecified_is_refused_and_never_a_default(name: str) -> None:
    assert refused(**{name: 0})[f"options.{name}"].startswith("is not set; choose one of ")


@pytest.mark.parametrize("name", [*OPTIONAL_ENUMS, "train_on"])
def test_an_unknown_number_is_refused(name: str) -> None:
    assert refused(**{name: 77})[f"options.{name}"].startswith("is 77, which this server does not know; choose one of ")


def test_every_enum_of_the_contract_has_its_member_and_back() -> None:
    for table in (TRAIN_ON, *OPTIONAL_ENUMS.values()):
        assert {table.to_wire[member] for member in table.to_domain.values()} == set(table.to_domain)


@pytest.mark.parametrize(
    ("fields", "field", "description"),
    [
        ({"model": ""}, "options.model", "is not set; choose a model that ListModels shows."),
        ({"max_length": 1}, "options.max_length", f"is 1; give 2 to {MAX_LENGTH} tokens."),
        ({"max_length": 131_073}, "options.max_length", "is 131073; give 2 to 131072 tokens."),
        ({"max_examples_per_conversation": 0}, "options.max_examples_per_conversation",
         "is 0; give 1 to 1024."),
        ({"date": "23.11.2026"}, "options.date", "is not a date; give YYYY-MM-DD."),
        ({"date": "2026-02-30"}, "options.date", "is not a date; give YYYY-MM-DD."),
        ({"chat_template": "x" * 300_000}, "options.chat_template", "is longer than 262144 bytes; send a shorter one."),
        ({"chat_template_kwargs_json": "[]"}, "options.chat_template_kwargs_json", "is not a JSON object; send one."),
        ({"part_weights": pb.PartWeights(reasoning=-1)}, "options.part_weights.reasoning",
         "is -1.0; give a finite number >= 0."),
        ({"part_weights": pb.PartWeights(tool_call=math.inf)}, "options.part_weights.tool_call",
         "is inf; give a finite number >= 0."),
    ],
)  # fmt: skip
def test_what_is_out_of_range_names_field_value_and_limit(
    fields: dict[str, object], field: str, description: str
) -> None:
    assert refused(**fields) == {field: description}


def test_everything_wrong_is_said_at_once() -> None:
    assert set(refused(model="", train_on=99, max_length=0)) == {
        "options.model",
        "options.train_on",
        "options.max_length",
    }


ENUMS = {name: st.sampled_from(list(table.to_wire)) for name, table in OPTIONAL_ENUMS.items()}
WEIGHTS = st.floats(0, 100, width=32)
ANY_OPTIONS = st.builds(
    Options,
    train_on=st.sampled_from(TrainOn),
    max_length=st.integers(2, MAX_LENGTH),
    max_examples_per_conversation=st.integers(1, 1024),
    include_trailing_whitespace=st.booleans(),
    ensure_final_stop=st.booleans(),
    normalize_messages=st.booleans(),
    make_tool_call_ids=st.booleans(),
    part_weights=st.builds(PartWeights, reasoning=WEIGHTS, content=WEIGHTS, tool_call=WEIGHTS),
    chat_template=st.none() | st.text(st.characters(codec="utf-8")),
    chat_template_kwargs=st.dictionaries(
        st.text(st.characters(codec="utf-8")), st.booleans() | st.integers(-9, 9) | st.none(), max_size=3
    ),
    date=st.none() | st.dates().map(lambda day: day.isoformat()),
    **ENUMS,  # type: ignore[arg-type]
)


@given(ANY_OPTIONS)
def test_options_survive_the_record_and_the_wire(value: Options) -> None:
    stored = json.loads(json.dumps(options_to_json(value, "m")))
    sent = pb.PreprocessOptions.FromString(options_from_json(stored).SerializeToString())
    assert sent.model == "m"
    assert options(sent) == value


def test_the_record_names_every_field_of_options() -> None:
    assert set(options_to_json(DEFAULTS, "m")) == {"model", *Options.__dataclass_fields__}


def test_a_record_that_is_older_than_an_option_says_what_it_was_made_with() -> None:
    stored = options_to_json(DEFAULTS, "m")
    older = {name: value for name, value in stored.items() if name not in BEFORE}
    read = options(options_from_json(older))
    assert (read.normalize_messages, read.next_header_stop) == (False, NextHeaderStop.NEVER)
