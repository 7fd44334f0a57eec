"""Parse large messages piece by piece: the parser holds the interpreter, and every other call, as long as it works.

Protobuf defines messages that are written one after another as one message with the fields of all. So a message may be
cut between any two of its fields, and its parts be merged in order.
"""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

M = TypeVar("M", bound=Message)

PIECE: Final = 1 << 19  #: bytes parsed at once, some milliseconds
FIELDS: Final = 20_000  #: of one message that are looked at; what follows is parsed at once


def parse(kind: type[M], raw: bytes) -> M:
    """Return what `kind.FromString` does. Raises DecodeError."""
    if len(raw) <= PIECE:
        return kind.FromString(raw)
    message = kind()
    _merge(message, memoryview(raw))
    return message


def _merge(message: Message, data: memoryview) -> None:
    """Merge the fields of a serialized message, and enter those that are large messages themselves."""
    start = at = fields = 0  # what begins at `start` is not merged yet
    while at < len(data) and fields < FIELDS:
        begin, fields = at, fields + 1
        try:
            number, body, at = _field(data, at)
        except (IndexError, DecodeError):  # broken, or of a form that we never send: the parser decides
            break
        if at > len(data):
            break
        if at - body > PIECE and _holds_messages(message, number):
            message.MergeFromString(bytes(data[start:begin]))
            _merge(_entered(message, number), data[body:at])
            start = at
        elif at - start > PIECE:
            message.MergeFromString(bytes(data[start:at]))
            start = at
    message.MergeFromString(bytes(data[start:]))


def _field(data: memoryview, at: int) -> tuple[int, int, int]:
    """Return a field's number, where its value begins and where it ends, which may be behind the data."""
    tag, at = _varint(data, at)
    number, form = tag >> 3, tag & 7
    if form == 0:
        return number, at, _varint(data, at)[1]
    if form == 2:
        size, at = _varint(data, at)
        return number, at, at + size
    if form in (1, 5):
        return number, at, at + (8 if form == 1 else 4)
    raise DecodeError


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise DecodeError


def _holds_messages(message: Message, number: int) -> bool:
    """Return whether a field holds messages that may be merged by their parts."""
    field = message.DESCRIPTOR.fields_by_number.get(number)
    return field is not None and field.message_type is not None and not field.message_type.GetOptions().map_entry


def _entered(message: Message, number: int) -> Message:
    """Return the message that a field's contents are merged into."""
    field = message.DESCRIPTOR.fields_by_number[number]
    value = getattr(message, field.name)
    if field.is_repeated:
        return value.add()  # type: ignore[no-any-return]  # a message of that field
    value.SetInParent()
    return value  # type: ignore[no-any-return]  # likewise
