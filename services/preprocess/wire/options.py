"""Convert PreprocessOptions to Options, to the JSON that is part of a dataset's address, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from typing import Final

from google.protobuf.message import Message

from services.preprocess.domain.limits import (
    MAX_CHAT_TEMPLATE_BYTES,
    MAX_EXAMPLES_PER_CONVERSATION,
    MAX_LENGTH,
    Violations,
)
from services.preprocess.wire.conversation import parse_object
from services.preprocess.wire.enums import EnumTable
from turnloom.masks.domain.conversation import JSON
from turnloom.masks.domain.options import (
    ControlTokens,
    GenerationPrefill,
    Mask,
    NextHeaderStop,
    OnUnextendable,
    Options,
    PartWeights,
    Tokenization,
    TrainOn,
    TrainOnEot,
    Truncation,
    is_iso_date,
)
from turnloom.v1 import types_pb2 as pb

TRAIN_ON: Final = EnumTable(pb.TrainOn.DESCRIPTOR, "TRAIN_ON", TrainOn)
#: Fields of both, absent on the wire where the default is meant.
OPTIONAL_ENUMS: Final[Mapping[str, EnumTable[Enum]]] = {
    "truncation": EnumTable(pb.Truncation.DESCRIPTOR, "TRUNCATION", Truncation),
    "tokenization": EnumTable(pb.Tokenization.DESCRIPTOR, "TOKENIZATION", Tokenization),
    "control_tokens": EnumTable(pb.ControlTokens.DESCRIPTOR, "CONTROL_TOKENS", ControlTokens),
    "on_unextendable": EnumTable(pb.OnUnextendable.DESCRIPTOR, "ON_UNEXTENDABLE", OnUnextendable),
    "train_on_eot": EnumTable(pb.TrainOnEot.DESCRIPTOR, "TRAIN_ON_EOT", TrainOnEot),
    "generation_prefill": EnumTable(pb.GenerationPrefill.DESCRIPTOR, "GENERATION_PREFILL", GenerationPrefill),
    "mask": EnumTable(pb.Mask.DESCRIPTOR, "MASK", Mask),
    "next_header_stop": EnumTable(pb.NextHeaderStop.DESCRIPTOR, "NEXT_HEADER_STOP", NextHeaderStop),
}
DEFAULTS: Final = Options()
#: What records that are older than an option were made with.
BEFORE: Final[Mapping[str, JSON]] = {
    "normalize_messages": False,
    "make_tool_call_ids": False,
    "next_header_stop": NextHeaderStop.NEVER.value,
}


def options(message: pb.PreprocessOptions, field: str = "options") -> Options:
    """Read options; an absent field takes the documented default, `date` stays None when absent.

    Raises:
        InvalidRequest: every field that is wrong, with paths below `field`.
    """
    violations = Violations()
    if not message.model:
        violations.add(f"{field}.model", "is not set; choose a model that ListModels shows.")
    train_on = TRAIN_ON.optional(
        message.train_on != 0, message.train_on, DEFAULTS.train_on, f"{field}.train_on", violations
    )
    plain: Message = message  # the stubs take literal names only
    enums = {
        name: table.optional(
            plain.HasField(name), getattr(message, name), getattr(DEFAULTS, name), f"{field}.{name}", violations
        )
        for name, table in OPTIONAL_ENUMS.items()
    }
    max_length = message.max_length if message.HasField("max_length") else DEFAULTS.max_length
    if max_length is not None and not 2 <= max_length <= MAX_LENGTH:
        violations.add(f"{field}.max_length", f"is {max_length}; give 2 to {MAX_LENGTH} tokens.")
    examples = DEFAULTS.max_examples_per_conversation
    if message.HasField("max_examples_per_conversation"):
        examples = message.max_examples_per_conversation
        if not 1 <= examples <= MAX_EXAMPLES_PER_CONVERSATION:
            violations.add(
                f"{field}.max_examples_per_conversation",
                f"is {examples}; give 1 to {MAX_EXAMPLES_PER_CONVERSATION}.",
            )
    part_weights = _part_weights(message.part_weights, f"{field}.part_weights", violations)
    template = message.chat_template if message.HasField("chat_template") else None
    if template is not None and len(template.encode()) > MAX_CHAT_TEMPLATE_BYTES:
        violations.add(f"{field}.chat_template", f"is longer than {MAX_CHAT_TEMPLATE_BYTES} bytes; send a shorter one.")
    variables: dict[str, JSON] = {}
    if message.chat_template_kwargs_json:
        try:
            variables = parse_object(message.chat_template_kwargs_json)
        except ValueError as error:
            violations.add(f"{field}.chat_template_kwargs_json", str(error))
    day = message.date if message.HasField("date") else None
    if day is not None and not is_iso_date(day):
        violations.add(f"{field}.date", "is not a date; give YYYY-MM-DD.")
    violations.refuse()
    return Options(
        train_on=train_on,
        max_length=max_length,
        max_examples_per_conversation=examples,
        include_trailing_whitespace=message.include_trailing_whitespace,
        ensure_final_stop=message.ensure_final_stop,
        normalize_messages=message.normalize_messages if message.HasField("normalize_messages") else True,
        make_tool_call_ids=message.make_tool_call_ids,
        part_weights=part_weights,
        chat_template=template,
        chat_template_kwargs=variables,
        date=day,
        **enums,  # type: ignore[arg-type]  # the keys are field names, proved by a test over both ways
    )


def _part_weights(message: pb.PartWeights, field: str, violations: Violations) -> PartWeights:
    values = {name: getattr(message, name) for name in ("reasoning", "content", "tool_call") if message.HasField(name)}
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            violations.add(f"{field}.{name}", f"is {value}; give a finite number >= 0.")
    return PartWeights(**values)


def options_to_json(value: Options, model: str) -> dict[str, JSON]:
    """Return plain values of all fields, enums by value: what a dataset record keeps and its address covers."""
    plain = {name: item.value if isinstance(item, Enum) else item for name, item in asdict(value).items()}
    return {"model": model, **plain}


def options_from_json(values: Mapping[str, JSON]) -> pb.PreprocessOptions:
    """Return the message for options that options_to_json wrote.

    Every field is set, so that a reader sees the defaults.
    """
    values = {**BEFORE, **values}
    message = pb.PreprocessOptions(model=_text(values["model"]))
    message.train_on = TRAIN_ON.to_wire[TrainOn(values["train_on"])]  # type: ignore[assignment]
    for name, table in OPTIONAL_ENUMS.items():
        member = type(getattr(DEFAULTS, name))(values[name])
        setattr(message, name, table.to_wire[member])
    for name in ("max_length", "max_examples_per_conversation", "chat_template", "date"):
        if values[name] is not None:
            setattr(message, name, values[name])
    message.include_trailing_whitespace = bool(values["include_trailing_whitespace"])
    for name in ("ensure_final_stop", "normalize_messages", "make_tool_call_ids"):
        setattr(message, name, bool(values[name]))
    weights = values["part_weights"]
    assert isinstance(weights, Mapping)
    for name, weight in weights.items():
        setattr(message.part_weights, name, weight)
    if values["chat_template_kwargs"]:
        message.chat_template_kwargs_json = json.dumps(values["chat_template_kwargs"], ensure_ascii=False)
    return message


def _text(value: JSON) -> str:
    assert isinstance(value, str)
    return value
