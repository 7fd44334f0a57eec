"""Convert a message of the contract to plain values for json.dumps: every field by its own name.

Unlike protobuf's own JSON, 64-bit integers are numbers and enums have short names ("SUCCEEDED", "RIGHT"). Unset fields
without presence appear with their zero; absent optional fields and messages are null. Times are ISO 8601 in UTC, and
bytes are base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import TypeAlias, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"


def to_plain(message: Message) -> dict[str, Plain]:
    """Return the message as a dictionary in field order; a oneof shows only the member that is set."""
    plain: dict[str, Plain] = {}
    for field in cast("list[FieldDescriptor]", message.DESCRIPTOR.fields):
        oneof = field.containing_oneof
        alone = oneof is not None and len(oneof.fields) == 1  # an optional field
        if field.has_presence and not message.HasField(field.name):
            if oneof is None or alone:
                plain[field.name] = None
        else:
            plain[field.name] = _value(field, getattr(message, field.name))
    return plain


def as_text(value: Plain) -> str:
    """Return a value as `--option NAME=VALUE` takes it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _value(field: FieldDescriptor, value: object) -> Plain:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        assert isinstance(value, Mapping)
        inner = kind.fields_by_name["value"]
        return {str(key): _scalar(inner, item) for key, item in sorted(value.items())}
    if field.is_repeated:
        assert isinstance(value, Iterable)
        return [_scalar(field, item) for item in value]
    return _scalar(field, value)


def _scalar(field: FieldDescriptor, value: object) -> Plain:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Message):
        return to_plain(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if field.enum_type is not None:
        assert isinstance(value, int)
        return short_name(field, value)
    assert isinstance(value, bool | int | float | str)
    return value


def short_name(field: FieldDescriptor, number: int) -> str:
    """Return RIGHT for TRUNCATION_RIGHT; an unknown number becomes text."""
    values = field.enum_type
    assert values is not None
    known = values.values_by_number.get(number)
    return known.name.removeprefix(values.values[0].name.removesuffix("UNSPECIFIED")) if known else str(number)
