"""Keys beside the messages mean the same to the engine, to the client and to the readers of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from turnloom.errors import InvalidInput
from turnloom.foreign.columns import BESIDE, INSTEAD, MASK_COLUMN, ROW_MASKS, VERDICT_COLUMNS
from turnloom.masks.domain.errors import MalformedConversation
from turnloom.masks.domain.reading import conversation_from
from turnloom.reading.chat_formats import Format
from turnloom.reading.local_sources import LocalSource
from turnloom.transport.uploads import as_messages
from turnloom.wire.conversations import from_json

MESSAGES = [
    {"role": "user", "content": "see <image> <video> <audio>"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "and?"},
    {"role": "assistant", "content": "two"},
]
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {}}}
VALUES = (
    False,
    True,
    0,
    1,
    None,
    "",
    "false",
    "0",
    "no",
    0.0,
    [0, 0, 0, 1],
    [0, 1],
    "[0, 0, 0, 1]",
    [TOOL],
    json.dumps([TOOL]),
    "x",
)


def by_file(row):
    """What the readers of files make of a row, or the beginning of their refusal."""
    try:
        return seen(from_json(Format("messages").document(row))), None
    except InvalidInput as error:
        return None, error.message.rstrip(".")[:40]


def by_engine(row):
    read = conversation_from(row)
    trainable = [said.trainable for said in read.training] or [None] * len(read.messages)
    told = [(one["role"], one["content"], said) for one, said in zip(read.messages, trainable, strict=True)]
    return told, list(read.tools or [])


def seen(conversation):
    trainable = [
        (one.role, one.text, one.trainable if one.HasField("trainable") else None) for one in conversation.messages
    ]
    return trainable, [json.loads(tool) for tool in conversation.tools_json]


@pytest.mark.parametrize("name", sorted(BESIDE))
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_column_that_other_tools_read_means_the_same_in_every_way_in(name: str, value) -> None:
    row = {"messages": MESSAGES, name: value}
    expected, refusal = by_file(row)
    if refusal is None:
        assert seen(from_json(row)) == expected
        assert by_engine(row) == expected
        return
    for way, kind in ((from_json, InvalidInput), (conversation_from, MalformedConversation)):
        with pytest.raises(kind) as caught:
            way(row)
        assert name in str(caught.value)
        assert refusal in str(caught.value)


NO: tuple[object, ...] = (False, 0, 0.0, "0", "no", "False", "0.0")
YES: tuple[object, ...] = (True, 1, 1.0, "1", "yes", "TRUE")


@pytest.mark.parametrize("name", sorted(ROW_MASKS.keys() - {"loss", MASK_COLUMN}))  # a measured number, and a list
def test_a_row_that_says_in_any_way_that_it_is_not_trained_is_refused(name: str) -> None:
    for value in YES if ROW_MASKS[name] else NO:
        row = {"messages": MESSAGES[2:], name: value}
        assert by_file(row)[1] == "says that the row is not trained; leave "
        with pytest.raises(InvalidInput, match="says that the row is not trained"):
            from_json(row)
        with pytest.raises(MalformedConversation, match="says that the row is not trained"):
            conversation_from(row)
    for value in NO if ROW_MASKS[name] else YES:
        assert by_file({"messages": MESSAGES[2:], name: value})[1] is None


@pytest.mark.parametrize("name", VERDICT_COLUMNS)
def test_a_false_verdict_is_one_also_as_text_of_csv(name: str, tmp_path: Path) -> None:
    path = tmp_path / "kto.csv"
    path.write_text(f"prompt,completion,{name}\nq,good,True\nq,bad,False\nq,class,0\n")
    (_, good), (_, bad), (_, number) = LocalSource.open([path]).whole().wanted()
    assert not isinstance(good, InvalidInput)
    assert not isinstance(number, InvalidInput)
    assert isinstance(bad, InvalidInput)
    assert "is false, which marks a reply that the model should not give" in bad.message


def test_an_image_is_named_that_a_part_of_content_stands_for() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "see <image>"}]}, MESSAGES[1]]
    row = {"messages": parts, "images": ["a.png"]}
    for way, kind in ((from_json, InvalidInput), (conversation_from, MalformedConversation)):
        with pytest.raises(kind, match="images: holds what <image> in the messages stands for"):
            way(row)


def test_nulls_that_a_table_filled_in_reach_no_template_by_way_of_the_engine() -> None:
    calls = [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1, "y": None}}},
        {"id": "2", "type": "function", "function": {"name": "g", "arguments": {"x": None, "y": 2}}},
    ]
    told = {"name": None, "reasoning_content": None}
    messages = [
        {"role": "user", "content": "q", "tool_calls": None, **told},
        {"role": "assistant", "content": None, "tool_calls": calls, **told},
    ]
    sent = from_json({"messages": messages}).messages[1].tool_calls
    read = conversation_from(messages).messages[1]["tool_calls"]
    assert [call["function"]["arguments"] for call in read] == [json.loads(one.arguments_json) for one in sent]
    assert [call["function"]["arguments"] for call in read] == [{"x": 1}, {"y": 2}]


def test_messages_and_tools_may_be_json_text() -> None:
    read = conversation_from({"messages": json.dumps(MESSAGES), "tools": json.dumps([TOOL])})
    assert (read.messages, read.tools) == (MESSAGES, [TOOL])
    assert conversation_from([json.dumps(one) for one in MESSAGES]).messages == MESSAGES


def test_what_to_write_instead_is_no_column_that_is_obeyed() -> None:
    assert INSTEAD.keys().isdisjoint(BESIDE)


def test_keys_that_nobody_reads_are_named_once_by_the_client() -> None:
    rows = [{"messages": MESSAGES, "source": "web", "weight": 2.0}, {"messages": MESSAGES, "source": "book"}]
    with pytest.warns(UserWarning, match=r"nobody reads: source, weight \(write weight at each message") as caught:
        assert len(list(as_messages(rows))) == 2
    assert len(caught) == 1
