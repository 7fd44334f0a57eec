"""What arrives on the wire is what templates see, and what is wrong with it is said with its place."""

from __future__ import annotations

import math

import pytest

from services.preprocess.wire.conversation import conversation, conversations
from turnloom.masks.domain.conversation import Training
from turnloom.masks.domain.errors import MalformedConversation, PreprocessError, UnsupportedContent
from turnloom.v1 import types_pb2 as pb


def one(**message: object) -> pb.Conversation:
    return pb.Conversation(messages=[pb.Message(role="assistant", **message)])  # type: ignore[arg-type]


def test_fields_that_are_absent_are_absent_from_the_message() -> None:
    read = conversation(pb.Conversation(messages=[pb.Message(role="user")], id="a"))
    assert read.messages == [{"role": "user"}]
    assert read.tools is None
    assert list(read.training) == []
    assert read.id == "a"


def test_an_empty_text_is_a_content_that_is_there() -> None:
    assert conversation(one(text="")).messages == [{"role": "assistant", "content": ""}]


def test_null_content_is_present_and_null() -> None:
    assert conversation(one(null_content=0)).messages == [{"role": "assistant", "content": None}]


def test_keys_keep_the_order_that_templates_print() -> None:
    message = conversation(
        one(
            extra_json='{"z": 1, "a": [true, null]}',
            name="n",
            tool_call_id="t",
            reasoning_content="r",
            text="c",
            tool_calls=[pb.ToolCall(id="i", type="function", name="f", arguments_json='{"b": 1, "a": 2}')],
        )
    ).messages[0]
    assert list(message) == ["role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", "z", "a"]
    assert message["tool_calls"] == [
        {"id": "i", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}}
    ]


def test_a_conversation_that_would_take_all_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.preprocess.wire.conversation.MAX_CONVERSATION_BYTES", 100)
    assert conversation(one(text="x" * 80)).messages
    with pytest.raises(MalformedConversation, match=r"^has 1\d\d bytes; at most 100 are taken. Split it"):
        conversation(one(text="x" * 100))


def test_arguments_given_as_text_stay_text() -> None:
    call = pb.ToolCall(name="f", arguments_text='{"a": 1}')
    assert conversation(one(tool_calls=[call])).messages[0]["tool_calls"] == [
        {"function": {"name": "f", "arguments": '{"a": 1}'}}
    ]


def test_text_parts_become_a_list_and_others_are_refused_with_their_index() -> None:
    parts = pb.ContentParts(parts=[pb.ContentPart(type="text", text="a"), pb.ContentPart(type="text", text="b")])
    assert conversation(one(parts=parts)).messages[0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]
    parts.parts[1].type = "image_url"
    with pytest.raises(UnsupportedContent) as caught:
        conversation(one(parts=parts))
    assert str(caught.value) == ("messages[0].parts[1].type: is 'image_url'; send parts of type 'text'.")


def test_training_is_told_for_every_message_or_for_none() -> None:
    read = conversation(
        pb.Conversation(messages=[pb.Message(role="user"), pb.Message(role="assistant", trainable=False, weight=0.5)])
    )
    assert list(read.training) == [Training(), Training(trainable=False, weight=0.5)]


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ({"weight": -1.0}, "messages[0].weight: is -1.0; give a finite number >= 0."),
        ({"weight": math.nan}, "messages[0].weight: is nan; give a finite number >= 0."),
        ({"extra_json": "{"}, "messages[0].extra_json: is not JSON (Expecting property name enclosed in double quotes"
         " at line 1 column 2); send a JSON object."),
        ({"extra_json": "[1]"}, "messages[0].extra_json: is not a JSON object; send one."),
        ({"extra_json": '{"a": NaN}'}, "messages[0].extra_json: holds NaN, Infinity or a number that is too long;"
         " send finite numbers."),
        ({"extra_json": '{"a": "\\ud800"}'}, "messages[0].extra_json: holds half of a surrogate pair; send whole"
         " characters."),
        ({"extra_json": '{"a": {"b": 1, "c": 2, "b": 3}}'}, "messages[0].extra_json: holds the key 'b' twice; send it"
         " once."),
        ({"extra_json": '{"role": "x"}'}, "messages[0].extra_json: names 'role', which has a field of its own; set that"
         " field."),
        ({"tool_calls": [pb.ToolCall(arguments_json="x")]}, "messages[0].tool_calls[0].arguments_json: is not JSON"
         " (Expecting value at line 1 column 1); send a JSON object."),
    ],
)  # fmt: skip
def test_what_cannot_be_read_names_its_place(message: dict[str, object], sentence: str) -> None:
    with pytest.raises(MalformedConversation) as caught:
        conversation(one(**message))
    assert str(caught.value) == sentence
    assert caught.value.message_index == 0


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert conversation(one(extra_json='{"a": "\\ud83d\\ude00"}')).messages[0]["a"] == "😀"


@pytest.mark.parametrize("levels", [100, 600, 100_000])
def test_deeply_nested_json_is_refused_and_not_a_crash(levels: int) -> None:
    with pytest.raises(MalformedConversation, match="is nested too deeply"):
        conversation(one(extra_json='{"a": ' + "[" * levels + "1" + "]" * levels + "}"))


def test_json_of_a_hundred_levels_and_of_many_short_lists_is_read() -> None:
    deep = '{"a": ' + "[" * 99 + "1" + "]" * 99 + ', "b": [' + ", ".join(["[[]]"] * 200) + "]}"
    assert conversation(one(extra_json=deep)).messages[0]["b"] == [[[]]] * 200


def test_tools_are_objects_and_a_bad_one_is_named() -> None:
    good = pb.Conversation(messages=[pb.Message(role="user")], tools_json=['{"b": 1, "a": 2}'])
    assert conversation(good).tools == [{"b": 1, "a": 2}]
    good.tools_json.append("7")
    with pytest.raises(MalformedConversation) as caught:
        conversation(good)
    assert str(caught.value) == "tools_json[1]: is not a JSON object; send one."


def test_one_bad_conversation_leaves_its_neighbours_alone() -> None:
    read = conversations([one(text="a"), one(extra_json="x"), one(text="b")])
    assert [isinstance(item, PreprocessError) for item in read] == [False, True, False]


def test_a_long_id_is_refused() -> None:
    with pytest.raises(MalformedConversation, match=r"^id: has more than 256 bytes"):
        conversation(pb.Conversation(id="x" * 257))
