"""Parsing by pieces gives what parsing at once does, for sound and for broken messages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from services.preprocess.api import parsing
from tests.support.api_calls import chat, options
from turnloom.v1 import datasets_pb2, preprocess_pb2

TEXTS = st.text(max_size=60)
CHATS = st.lists(st.lists(st.tuples(TEXTS, TEXTS), max_size=6), max_size=6)


@pytest.fixture(autouse=True, scope="module")
def _small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parsing, "PIECE", 24)
        yield


def by_pieces(kind: type[Message], raw: bytes) -> Message | None:
    try:
        return parsing.parse(kind, raw)
    except DecodeError:
        return None


def at_once(kind: type[Message], raw: bytes) -> Message | None:
    try:
        return kind.FromString(raw)
    except DecodeError:
        return None


def requests(chats: list[list[tuple[str, str]]]) -> list[Message]:
    made = []
    for turns in chats:
        one = chat("x", "y")
        for asked, answered in turns:
            one.messages.extend(chat(asked, answered).messages)
        made.append(one)
    chunk = datasets_pb2.DatasetChunk(conversations=made, first=3)
    return [
        preprocess_pb2.PreprocessRequest(options=options(), conversations=made, skip_bad=True),
        datasets_pb2.CreateDatasetRequest(chunk=chunk),
        datasets_pb2.CreateDatasetRequest(
            header=datasets_pb2.CreateDatasetHeader(
                options=options(), metadata={str(n): "v" * 40 for n in range(4)}, display_name="n" * 50
            )
        ),
    ]


@given(chats=CHATS)
def test_a_message_is_the_same_by_pieces(chats: list[list[tuple[str, str]]]) -> None:
    for message in requests(chats):
        assert parsing.parse(type(message), message.SerializeToString()) == message


@given(
    chats=CHATS,
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    cut=st.floats(0, 1),
)
def test_a_damaged_message_is_refused_or_read_alike(
    chats: list[list[tuple[str, str]]], damage: list[tuple[int, int]], cut: float
) -> None:
    for message in requests(chats):
        raw = bytearray(message.SerializeToString())
        for place, value in damage:
            raw[place % len(raw)] = value
        data = bytes(raw[: round(cut * len(raw))])
        assert by_pieces(type(message), data) == at_once(type(message), data)


def test_more_fields_than_are_looked_at_are_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "FIELDS", 3)
    message = preprocess_pb2.PreprocessRequest(options=options(), conversations=[chat("a", "b")] * 50)
    assert parsing.parse(preprocess_pb2.PreprocessRequest, message.SerializeToString()) == message
