"""One conversation in every Arrow type that tools write, read by the client as the one that was meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.preprocess.wire.conversation import conversation
from turnloom.errors import InvalidInput
from turnloom.masks.domain.conversation import JSON, Conversation
from turnloom.reading.local_sources import LocalSource
from turnloom.wire.conversations import from_json

CALL: dict[str, JSON] = {"function": {"name": "f", "arguments": {"a": 1}}}
CHAT: list[dict[str, JSON]] = [
    {"role": "user", "content": "é"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
]
PLAIN: list[dict[str, JSON]] = [{"role": "user", "content": "é"}, {"role": "assistant", "content": "yo"}]
TEXTS = json.dumps(CHAT)


def message_of(text: pa.DataType) -> pa.DataType:
    return pa.struct([("role", text), ("content", text)])


def as_json(values: list[str | None]) -> pa.Array:
    """A column of the type arrow.json."""
    return pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(values, pa.string()))


def encoded() -> pa.Array:
    """Messages whose roles are dictionary encoded."""
    roles = pa.array([message["role"] for message in PLAIN]).dictionary_encode()
    contents = pa.array([message["content"] for message in PLAIN])
    return pa.ListArray.from_arrays([0, 2], pa.StructArray.from_arrays([roles, contents], ["role", "content"]))


KINDS: dict[str, Callable[[], pa.Array]] = {
    "large_list and large_string": lambda: pa.array([PLAIN], pa.large_list(message_of(pa.large_string()))),
    "list_view": lambda: pa.array([PLAIN], pa.list_view(message_of(pa.string()))),
    "large_list_view": lambda: pa.array([PLAIN], pa.large_list_view(message_of(pa.string()))),
    "fixed_size_list": lambda: pa.array([PLAIN], pa.list_(message_of(pa.string()), 2)),
    "string_view": lambda: pa.array([PLAIN], pa.list_(message_of(pa.string_view()))),
    "dictionary": encoded,
    "map": lambda: pa.array([[list(one.items()) for one in PLAIN]], pa.list_(pa.map_(pa.string(), pa.string()))),
    "binary that is text": lambda: pa.array(
        [[{key: str(value).encode() for key, value in one.items()} for one in PLAIN]], pa.list_(message_of(pa.binary()))
    ),
    "struct": lambda: pa.array([CHAT]),
    "arrow.json": lambda: as_json([TEXTS]),
    "list of arrow.json": lambda: pa.ListArray.from_arrays([0, 2], as_json([json.dumps(one) for one in CHAT])),
    "JSON text": lambda: pa.array([TEXTS]),
    "JSON text of JSON text": lambda: pa.array([json.dumps(TEXTS)]),
    "list of JSON texts": lambda: pa.array([[json.dumps(one) for one in CHAT]]),
    "JSON text as bytes": lambda: pa.array([TEXTS.encode()], pa.binary()),
}


def read(path: Path) -> list[Conversation]:
    return [conversation(one) for one in (from_json(doc) for _, doc in LocalSource.open([path]).whole().wanted())]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_every_arrow_type_of_messages_is_read_as_the_same(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "chats.arrow"
    table = pa.table({"messages": KINDS[kind]()})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    (found,) = read(path)
    assert [*found.messages] in (CHAT, PLAIN)
    if kind not in ("list_view", "large_list_view", "string_view"):  # Parquet has no such types
        pq.write_table(table, tmp_path / "chats.parquet")
        assert read(tmp_path / "chats.parquet") == [found]


def test_what_pandas_writes_is_read_whatever_its_index_and_gaps_are(tmp_path: Path) -> None:
    frame = pd.DataFrame({"messages": [CHAT, np.array(PLAIN, dtype=object)], "score": [1.0, np.nan]}, index=["x", "y"])
    frame.to_parquet(tmp_path / "chats.parquet")
    assert [one.messages for one in read(tmp_path / "chats.parquet")] == [CHAT, PLAIN]
    part = LocalSource.open([tmp_path / "chats.parquet"]).whole()
    assert len(list(part.sourced())) == 2
    assert [*part.counts.unused_columns] == ["score"]


def test_a_column_of_bytes_that_are_no_text_spoils_no_row_and_is_named_where_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "chats.parquet"
    pq.write_table(pa.table({"messages": [PLAIN], "image": [b"\xff\xd8"]}), path)
    assert [one.messages for one in read(path)] == [PLAIN]
    pq.write_table(pa.table({"messages": [b"\xff\xd8"]}), path)
    with pytest.raises(Exception, match=r"messages \(bytes that are no text\)"):
        LocalSource.open([path])


def test_a_null_where_a_part_must_be_is_told_from_a_column_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "chats.parquet"
    pq.write_table(pa.table({"prompt": ["q", None], "completion": ["a", "b"]}), path)
    _, (_, document) = LocalSource.open([path]).whole().wanted()
    assert "is null in this row" in str(document)


def test_a_null_of_a_map_was_written_and_one_of_a_struct_was_not(tmp_path: Path) -> None:
    text = pa.string()
    for kind, expected in (
        (pa.map_(text, text), {"a": "1", "b": None}),
        (pa.struct([("a", text), ("b", text)]), {"a": "1"}),
    ):
        arguments = [("a", "1"), ("b", None)] if pa.types.is_map(kind) else {"a": "1", "b": None}
        call = pa.struct([("name", text), ("arguments", kind)])
        message = pa.struct([("role", text), ("content", text), ("tool_calls", pa.list_(call))])
        chat = [
            {"role": "user", "content": "q"},
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]},
        ]
        pq.write_table(pa.table({"messages": pa.array([chat], pa.list_(message))}), tmp_path / "chats.parquet")
        (found,) = read(tmp_path / "chats.parquet")
        assert found.messages[1]["tool_calls"] == [{"function": {"name": "f", "arguments": expected}}]


@pytest.mark.parametrize("name", ["chats.parquet", "chats.arrow"])
def test_a_column_that_stands_twice_is_named(tmp_path: Path, name: str) -> None:
    table = pa.table([pa.array([PLAIN]), pa.array([CHAT])], names=["messages", "messages"])
    if name.endswith(".parquet"):
        pq.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(InvalidInput, match=rf"{name} has the column messages twice\."):
        read(tmp_path / name)
