"""Convert keyword arguments to the contract's option messages: fields keep their names, enums are short.

preprocess_options("qwen3", {"max_length": 1024, "truncation": "left"})
hyperparameters({"lora_rank": 8, "schedule": "cosine"})
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Literal, TypeAlias, TypedDict, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from turnloom.errors import InvalidInput
from turnloom.foreign.json_text import object_in
from turnloom.foreign.plain_values import PLAIN, NotPlain, json_text, shown
from turnloom.v1 import training_pb2, types_pb2

M = TypeVar("M", bound=Message)
JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


class PartWeightFields(TypedDict, total=False):
    """Factors on target weights inside a trained message; finite, >= 0."""

    reasoning: float
    content: float
    tool_call: float


class PreprocessFields(TypedDict, total=False):
    """Fields of PreprocessOptions, beside the model. Absent: the default that types.proto names."""

    train_on: Literal[
        "all_assistant_messages",
        "last_assistant_message",
        "last_assistant_turn",
        "all_messages",
        "all_tokens",
        "all_user_and_system_messages",
        "customized",
    ]  #: absent: all_assistant_messages
    max_length: int  #: tokens, >= 2
    truncation: Literal["right", "left", "drop_turns", "error"]
    tokenization: Literal["exact", "hf"]
    control_tokens: Literal["escape", "reject", "allow"]
    on_unextendable: Literal["split", "last", "as_rendered", "error"]
    max_examples_per_conversation: int
    train_on_eot: Literal["all", "last", "none"]
    include_trailing_whitespace: bool
    ensure_final_stop: bool
    generation_prefill: Literal["default", "longest", "none"]
    mask: Literal["regions", "template"]
    part_weights: PartWeightFields
    chat_template: str
    chat_template_kwargs_json: str
    chat_template_kwargs: dict[str, JSON]  #: instead of chat_template_kwargs_json
    date: str
    normalize_messages: bool  #: absent: true
    make_tool_call_ids: bool
    next_header_stop: Literal["auto", "always", "never"]


class HyperparameterFields(TypedDict, total=False):
    """Fields of Hyperparameters. Absent: the default that training.proto names."""

    lora_rank: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool
    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: int
    epochs: int
    max_steps: int
    batch_size: int  #: conversations
    max_length: int  #: tokens
    seed: int
    eval_every: int  #: steps
    checkpoint_every: int  #: steps
    checkpoint_every_seconds: int
    pipeline_depth: int
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    grad_clip_norm: float
    weight_normalization: Literal["none", "per_example", "per_batch"]
    max_tokens_per_call: int
    early_stopping_patience: int
    early_stopping_min_delta: float
    keep_checkpoints: int


def preprocess_options(model: str, fields: PreprocessFields | Mapping[str, object]) -> types_pb2.PreprocessOptions:
    """Build options with only the given fields set.

    Raises:
        InvalidInput: an unknown name, or a value that the field can't hold.
    """
    values: dict[str, object] = dict(fields)
    if "chat_template_kwargs" in values:
        try:
            values["chat_template_kwargs_json"] = json_text(values.pop("chat_template_kwargs"), finite=False)
        except NotPlain as error:
            where = f"chat_template_kwargs{error.place}"
            raise InvalidInput(f"{where}: {error.what}.", field=where, hint=PLAIN) from error
    return _filled(types_pb2.PreprocessOptions(model=model), values)


def hyperparameters(fields: HyperparameterFields | Mapping[str, object]) -> training_pb2.Hyperparameters:
    """Build hyperparameters with only the given fields set.

    Raises:
        InvalidInput: an unknown name, or a value that the field can't hold.
    """
    return _filled(training_pb2.Hyperparameters(), dict(fields))


def _filled(message: M, values: dict[str, object]) -> M:
    """Set values in `message` by protobuf's JSON rules, after mapping names to the contract's, and return it."""
    known = _fields(message)
    for name, value in values.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(known)}."
            raise InvalidInput(f"There is no option named {name}.", hint=hint, field=name)
        field = known[name]
        document = {name: _enum_name(field, value) if field.enum_type else value}
        try:
            json_format.ParseDict(document, message)
        except json_format.ParseError as error:
            raise InvalidInput(f"{name}: {shown(value)} is not {_kind(field)}.", field=name) from error
    return message


def _fields(message: Message | type[Message]) -> Mapping[str, FieldDescriptor]:
    """Return fields by name; the stubs use two classes for the same descriptor."""
    return cast("Mapping[str, FieldDescriptor]", message.DESCRIPTOR.fields_by_name)


def _enum_name(field: FieldDescriptor, value: object) -> str:
    """Return the full enum name: TRUNCATION_LEFT for "left"."""
    enum = field.enum_type
    assert enum is not None
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    name = f"{prefix}{value}".upper().replace("-", "_")
    if name not in enum.values_by_name or name == enum.values[0].name:
        choices = ", ".join(v.name.removeprefix(prefix).lower() for v in enum.values[1:])
        raise InvalidInput(f"{field.name}: there is no {value!r}.", hint=f"Choose from {choices}.", field=field.name)
    return name


def _kind(field: FieldDescriptor) -> str:
    kinds = {
        FieldDescriptor.CPPTYPE_UINT32: "a whole number from 0 to 4294967295",
        FieldDescriptor.CPPTYPE_INT64: "a whole number",
        FieldDescriptor.CPPTYPE_DOUBLE: "a finite number",
        FieldDescriptor.CPPTYPE_BOOL: "true or false",
        FieldDescriptor.CPPTYPE_STRING: "text",
        FieldDescriptor.CPPTYPE_MESSAGE: "an object with numbers",
    }
    return kinds.get(field.cpp_type, "a value that this field takes")


def from_text(message: type[Message], name: str, text: str) -> object:
    """Parse `--option name=text`: as JSON for a number, a flag or an object, else as the text itself.

    Raises:
        InvalidInput: the text is not JSON where JSON is needed.
    """
    if name == "chat_template_kwargs":  # of PreprocessOptions; its field takes the text of the object
        found = object_in(text)
        if not isinstance(found, dict):
            raise InvalidInput(f'{name}: {text!r} is no JSON object; give {{"enable_thinking": false}}.', field=name)
        return found
    field = _fields(message).get(name)
    if field is None or field.enum_type or field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidInput(f"{name}: {text!r} is not {_kind(field)}.", field=name) from error
