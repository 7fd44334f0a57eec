from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnloom.errors import InvalidInput
from turnloom.reading.local_sources import LocalSource, read
from turnloom.transport.uploads import as_messages
from turnloom.wire.conversations import from_json, to_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)
KNOWN = {"role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", "trainable", "weight"}
CALLS = st.fixed_dictionaries(
    {
        "function": st.fixed_dictionaries(
            {"name": TEXT}, optional={"arguments": TEXT | st.dictionaries(TEXT, VALUES, max_size=3)}
        )
    },
    optional={"id": TEXT.filter(bool), "type": st.just("function")},
)
MESSAGES = st.builds(
    lambda base, extra: {**{k: v for k, v in extra.items() if k not in KNOWN and v is not None}, **base},
    st.fixed_dictionaries(
        {"role": TEXT},
        optional={
            "content": st.none()
            | TEXT
            | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=3),
            "reasoning_content": TEXT,
            "tool_calls": st.lists(CALLS, min_size=1, max_size=2),
            "tool_call_id": TEXT,
            "name": TEXT,
            "trainable": st.booleans(),
            "weight": st.floats(0, 100, width=32),
        },
    ),
    st.dictionaries(TEXT, VALUES, max_size=2),
)
CONVERSATIONS = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES, max_size=3)},
    optional={
        "tools": st.lists(
            st.dictionaries(TEXT, VALUES.filter(lambda value: value is not None), max_size=3), min_size=1, max_size=2
        ),
        "id": TEXT.filter(bool),
    },
)


@given(CONVERSATIONS)
def test_a_conversation_survives_the_way_to_the_wire_and_back(document: dict) -> None:
    assert to_json(from_json(document)) == document


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


LINE = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}'


def test_empty_lines_are_skipped_and_still_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINE, "", LINE)
    assert [s.place for s in LocalSource.open([path]).whole().sourced()] == [f"{path}, line 1", f"{path}, line 3"]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINE.encode())
    assert read(path)[0].messages[0].text == "hi"


@pytest.mark.parametrize(
    ("document", "places"),
    [
        (LINE, ["{path}"]),
        (f"[{LINE}, {LINE}]", ["{path}, item 0", "{path}, item 1"]),
        ('[{"role": "user", "content": "hi"}]', ["{path}"]),
        (f"{LINE}\n{LINE}", ["{path}, line 1", "{path}, line 2"]),
    ],
)
def test_a_json_file_holds_one_conversation_a_list_or_json_lines(
    tmp_path: Path, document: str, places: list[str]
) -> None:
    path = write(tmp_path / "a.json", document)
    assert [s.place for s in LocalSource.open([path]).whole().sourced()] == [
        place.format(path=path) for place in places
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{\n", "is not JSON (Expecting property name enclosed in double quotes in column 2)."),
        ("3", "a row is the number 3; give an object with columns."),
        ('{"conversations": []}', "messages: there is no column messages (columns: conversations)."),
        ('{"messages": {}}', "messages: is an object; give a list."),
        ('{"messages": ["x"]}', "messages[0]: can't be used; give an object with role and content."),
        ('{"messages": [{"content": "x"}]}', "messages[0]: has no role."),
        ('{"messages": [{"role": 1}]}', "messages[0].role: is the number 1; give text."),
        ('{"messages": [{"role": "user", "content": 3}]}', "messages[0].content: is the number 3; give text"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            "messages[0].content[0]: has the type image_url; give text, nothing else can be trained on.",
        ),
        (
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": 1}]}]}',
            "messages[0].content[0]: has the unknown key cache_control.",
        ),
        (
            '{"messages": [{"role": "assistant", "tool_calls": [{"parent": 0, "function": {"name": "f"}}]}]}',
            "messages[0].tool_calls[0]: has the unknown key parent.",
        ),
        (
            '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 3}}]}]}',
            "messages[0].tool_calls[0].function.arguments: is the number 3; give an object or text.",
        ),
        ('{"messages": [{"role": "user", "trainable": 1}]}', "messages[0].trainable: is the number 1"),
        ('{"messages": [{"role": "user", "weight": "1"}]}', "messages[0].weight: is text; give a number"),
        ('{"messages": [], "id": []}', "id: is a list; give text or a whole number."),
        ('{"messages": [], "tools": "x"}', "tools: is text, but not JSON text of a list."),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "half of a surrogate pair"),
        ('{"messages": [{"role": "user", "weight": NaN}]}', "holds NaN, which JSON can't hold."),
    ],
)
def test_a_mistake_is_named_with_file_line_and_field(tmp_path: Path, line: str, sentence: str) -> None:
    path = write(tmp_path / "a.jsonl", LINE, line)
    with pytest.raises(InvalidInput) as caught:
        read(path)
    assert f"{path}, line 2" in caught.value.message
    assert sentence in caught.value.message


def test_share_gpt_data_gets_a_hint() -> None:
    with pytest.raises(InvalidInput) as caught:
        from_json({"messages": [{"from": "human", "value": "x"}]}, "here")
    assert "ShareGPT" in caught.value.hint


def test_bytes_that_are_not_utf_8_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINE.encode() + b"\n\xff\xfe")
    with pytest.raises(InvalidInput, match=r"line 2: is not UTF-8\."):
        read(path)


def test_a_file_that_is_not_there_a_folder_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="There is no file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(InvalidInput, match="There is no data file in the folder"):
        read(tmp_path)
    with pytest.raises(InvalidInput, match="holds no conversation"):
        read(write(tmp_path / "empty.jsonl", "", " "))


def test_null_in_an_optional_key_is_its_absence_and_in_content_it_is_null() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": None, "name": None, "reasoning_content": None}
    assert to_json(from_json({"messages": [message]})) == {"messages": [{"role": "assistant", "content": None}]}


def test_flat_tool_calls_and_tools_as_text_are_understood() -> None:
    document = {
        "messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"b": 1, "a": 2}}]}],
        "tools": json.dumps([{"type": "function"}]),
    }
    conversation = from_json(document)
    assert conversation.messages[0].tool_calls[0].arguments_json == '{"b": 1, "a": 2}'
    assert list(conversation.tools_json) == ['{"type": "function"}']


def test_arrays_of_pandas_are_lists() -> None:
    call = {"function": {"name": "f", "arguments": {"c": [1, 2]}}}
    array = {"function": {"name": "f", "arguments": {"c": np.array([1, 2])}}}
    plain = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]
    messages = [plain[0], {"role": "assistant", "tool_calls": np.array([array], dtype=object)}]
    row = {"messages": np.array(messages, dtype=object), "tools": float("nan"), "score": np.array([0.5, 1.0])}
    with pytest.warns(UserWarning, match="Columns that nobody reads: score"):
        (found,) = as_messages([row])  # type: ignore[list-item]  # what pandas gives
    assert found == from_json(row["messages"]) == from_json(plain)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([{"role": "user", "content": "a\ud83d"}], "messages[0].content"),
        ({"messages": [{"role": "user", "meta": {"k": ["\udc00"]}}]}, "messages[0].meta.k[0]"),
        ({"messages": [{"role": "user", "a\ud83d": 1}]}, "messages[0]"),
        ({"messages": [], "tools": [{"d": "\ud800"}]}, "tools[0].d"),
        ({"messages": [], "id": "\ud800"}, "id"),
    ],
)
def test_half_of_a_surrogate_pair_is_named_by_its_place(document, place: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        from_json(document, "a.jsonl, line 1")
    said = "half of a surrogate pair (\\ud800 to \\udfff) stands alone."
    assert refused.value.message == f"a.jsonl, line 1: {place}: {said}"
    assert refused.value.field == place
