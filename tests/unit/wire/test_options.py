from __future__ import annotations

import json
from typing import get_args, get_type_hints

import pytest

from turnloom.errors import InvalidInput
from turnloom.v1 import training_pb2, types_pb2
from turnloom.wire.options import (
    HyperparameterFields,
    PartWeightFields,
    PreprocessFields,
    from_text,
    hyperparameters,
    preprocess_options,
)


def test_keyword_arguments_are_the_fields_of_the_contract() -> None:
    preprocess = set(types_pb2.PreprocessOptions.DESCRIPTOR.fields_by_name)
    assert set(PreprocessFields.__annotations__) == preprocess - {"model"} | {"chat_template_kwargs"}
    assert set(HyperparameterFields.__annotations__) == set(training_pb2.Hyperparameters.DESCRIPTOR.fields_by_name)
    assert set(PartWeightFields.__annotations__) == set(types_pb2.PartWeights.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [(PreprocessFields, types_pb2.PreprocessOptions), (HyperparameterFields, training_pb2.Hyperparameters)],
)
def test_every_short_name_of_an_enum_is_accepted(fields: type, message: type) -> None:
    for name, hint in get_type_hints(fields).items():
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is not None and field.enum_type:
            assert len(get_args(hint)) == len(field.enum_type.values) - 1
            for number, choice in enumerate(get_args(hint), start=1):
                made = (
                    preprocess_options("m", {name: choice})
                    if message is types_pb2.PreprocessOptions
                    else hyperparameters({name: choice})
                )
                assert getattr(made, name) == number


def test_nothing_is_set_that_was_not_given() -> None:
    made = preprocess_options("m", {})
    assert [field.name for field, _ in made.ListFields()] == ["model"]
    assert hyperparameters({}) == training_pb2.Hyperparameters()
    assert hyperparameters({"train_mlp": False}).HasField("train_mlp")


def test_template_variables_are_given_as_a_dictionary() -> None:
    made = preprocess_options("m", {"chat_template_kwargs": {"b": "ä", "a": False}, "part_weights": {"reasoning": 0.5}})
    assert made.chat_template_kwargs_json == '{"b": "ä", "a": false}'
    assert made.part_weights.reasoning == 0.5
    assert not made.part_weights.HasField("content")


@pytest.mark.parametrize(
    ("fields", "sentence", "hint"),
    [
        ({"max_lenght": 3}, "There is no option named max_lenght.", "Did you mean max_length?"),
        ({"truncation": "middle"}, "truncation: there is no 'middle'.", "Choose from right, left, drop_turns, error."),
        ({"truncation": "unspecified"}, "truncation: there is no 'unspecified'.", "Choose from"),
        ({"max_length": -1}, "max_length: -1 is not a whole number from 0 to 4294967295.", ""),
        ({"max_length": "long"}, "max_length: 'long' is not a whole number", ""),
        ({"max_length": True}, "max_length: true is not a whole number", ""),
        ({"date": 3}, "date: 3 is not text.", ""),
    ],
)
def test_a_wrong_option_is_named(fields: dict, sentence: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        preprocess_options("m", fields)
    assert sentence in caught.value.message
    assert hint in caught.value.hint


def test_text_from_a_command_line_becomes_the_type_of_its_field() -> None:
    assert from_text(training_pb2.Hyperparameters, "lora_rank", "8") == 8
    assert from_text(training_pb2.Hyperparameters, "train_mlp", "false") is False
    assert from_text(training_pb2.Hyperparameters, "schedule", "cosine") == "cosine"
    assert from_text(types_pb2.PreprocessOptions, "date", "2026") == "2026"
    with pytest.raises(InvalidInput, match="lora_rank: 'eight' is not a whole number"):
        from_text(training_pb2.Hyperparameters, "lora_rank", "eight")
    with pytest.raises(InvalidInput, match=r"part_weights: '.* is not an object with numbers"):
        from_text(types_pb2.PreprocessOptions, "part_weights", "[" * 100_000)


def test_variables_of_the_template_are_given_as_json() -> None:
    value = from_text(types_pb2.PreprocessOptions, "chat_template_kwargs", '{"enable_thinking": false}')
    sent = preprocess_options("m", {"chat_template_kwargs": value})
    assert json.loads(sent.chat_template_kwargs_json) == {"enable_thinking": False}
    with pytest.raises(InvalidInput, match="is no JSON object"):
        from_text(types_pb2.PreprocessOptions, "chat_template_kwargs", "enable_thinking")
