"""Calls and replies as other tools write them mean the same to the engine and to the client, or are refused by both."""

from __future__ import annotations

import json

import pytest

from services.preprocess.wire.conversation import conversation as from_wire
from services.preprocess.wire.conversation import parse_object
from tests.unit.masks.test_masker import TOOLS
from tests.unit.masks.test_model import source
from turnloom.errors import InvalidInput
from turnloom.foreign.tool_calls import with_known_keys
from turnloom.masks import Masker, Options, load_model
from turnloom.masks.domain.errors import MalformedConversation
from turnloom.masks.domain.reading import conversation_from
from turnloom.masks.template.normalize import normalized_tools
from turnloom.reading.chat_formats import Format
from turnloom.wire.conversations import OTHER_CONTENT, from_json

ASKED = {"role": "user", "content": "weather?"}
CALL = {"type": "function", "function": {"name": "w", "arguments": {"c": "Oslo"}}}
WRITTEN = [
    ("langchain", {"name": "w", "args": {"c": "Oslo"}, "type": "tool_call"}),
    ("anthropic", {"name": "w", "input": {"c": "Oslo"}}),
    ("llama", {"type": "function", "function": {"name": "w", "parameters": {"c": "Oslo"}}}),
    ("flat", {"id": "c1", "name": "w", "arguments": {"c": "Oslo"}}),
    ("flat text", {"name": "w", "arguments": '{"c": "Oslo"}'}),
    ("null beside", {"name": "w", "args": {"c": "Oslo"}, "arguments": None}),
    ("streamed", {"index": 0, **CALL}),
    ("function as text", {"type": "function", "function": json.dumps(CALL["function"])}),
]


@pytest.fixture(scope="module")
def masker(tmp_path_factory: pytest.TempPathFactory) -> Masker:
    folder = source(tmp_path_factory.mktemp("tools") / "model", template=TOOLS)
    return Masker(load_model(folder), Options(date="2026-01-02"))


def trained(masker: Masker, document: object) -> str:
    (one,) = masker([document])
    assert one.error is None, one.error
    (row,) = one.rows
    return masker.model.vocabulary.decode(row.token_ids[1:][row.target_weights > 0]).decode()


@pytest.mark.parametrize(("tool", "call"), WRITTEN, ids=[name for name, _ in WRITTEN])
def test_a_call_trains_the_same_text_whoever_wrote_it(masker: Masker, tool: str, call: dict[str, object]) -> None:
    expected = trained(masker, [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}])
    assert '{"c": "Oslo"}' in expected
    for calls in ([call], json.dumps([call])):
        chat = [ASKED, {"role": "assistant", "content": "", "tool_calls": calls}]
        assert trained(masker, chat) == expected
        assert trained(masker, from_wire(from_json(chat))) == expected


SCHEMA = {"type": "object", "properties": {"c": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "w", "description": "d", "parameters": SCHEMA}}


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "w", "description": "d", "parameters": SCHEMA},
        {"type": "function", "name": "w", "description": "d", "parameters": SCHEMA},
        {"name": "w", "description": "d", "input_schema": SCHEMA},
        {"type": "custom", "name": "w", "description": "d", "input_schema": SCHEMA},
    ],
    ids=["bare", "responses", "anthropic", "anthropic custom"],
)
def test_a_tool_is_shown_the_same_whoever_wrote_it(masker: Masker, tool: dict[str, object]) -> None:
    chat = [ASKED, {"role": "assistant", "content": "It rains."}]
    documents = [{"messages": chat, "tools": tools} for tools in ([TOOL], [tool], json.dumps([tool]))]
    sent = [from_wire(from_json(document)) for document in documents]
    expected, *others = ([row.token_ids.tolist() for row in one.rows] for one in masker([*documents, *sent]))
    assert expected
    assert all(one == expected for one in others)
    as_sent = Masker(masker.model, Options(date="2026-01-02", normalize_messages=False))(documents)
    assert [row.token_ids.tolist() for row in as_sent[1].rows] != expected


def test_tools_of_a_server_stay_as_they_are() -> None:
    tools = [TOOL, {"type": "web_search"}, {"type": "bash_20250124", "name": "bash"}, {"name": "nothing else"}, "text"]
    assert normalized_tools(tools) is tools


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("thinking", "write its text as reasoning_content of the message"),
        ("tool_use", "write it as a member of the message's tool_calls"),
        ("tool_result", "write it as a message of its own, with the role tool"),
        ("output_text", "write the type text"),
        ("image_url", "give text, nothing else can be trained on"),
    ],
)
def test_parts_of_other_apis_say_what_to_write(masker: Masker, kind: str, advice: str) -> None:
    chat = [ASKED, {"role": "assistant", "content": [{"type": kind, "text": "x"}]}]
    with pytest.raises(InvalidInput) as refused:
        from_json(chat)
    assert refused.value.message == f"messages[1].content[0]: has the type {kind}; {advice}."
    (one,) = masker([chat])
    if kind == "thinking":  # some templates read it
        assert "reasoning" not in str(one.error)
    elif kind == "image_url":
        assert str(one.error) == "messages[1].content: part 0 is of type 'image_url'; only text can be trained on"
    else:
        assert str(one.error) == f"messages[1].content: part 0 is of type {kind!r}; {advice}"


def test_sharegpts_calls_keep_arguments_of_another_name_and_their_id(masker: Masker) -> None:
    call = {"id": "c1", "name": "w", "parameters": {"c": "Oslo"}}
    turns = [{"from": "human", "value": "weather?"}, {"from": "function_call", "value": json.dumps(call)}]
    document = Format("sharegpt").document({"conversations": turns})
    assert document["messages"] == [ASKED, {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **CALL}]}]
    odd = [turns[0], {"from": "function_call", "value": json.dumps({"name": "w", "kwargs": {"c": "Oslo"}})}]
    with pytest.raises(InvalidInput, match=r"messages\[1\]\.tool_calls\[0\]\.function: has the unknown key kwargs"):
        from_json(Format("sharegpt").document({"conversations": odd}))
    (one,) = masker([Format("sharegpt").document({"conversations": odd})])
    assert "tool_calls[0].function: has the unknown key kwargs. Remove it" in str(one.error)


@pytest.mark.parametrize(
    ("calls", "place", "what"),
    [
        ("x", "tool_calls", "is text"),
        (CALL, "tool_calls", "is an object"),
        ([None], "tool_calls[0]", "is null or absent"),
        ([{"function": None}], "tool_calls[0].function", "is null or absent"),
        ([{"function": {"arguments": "{}"}}], "tool_calls[0].function.name", "is null or absent"),
        ([{"arguments": "{}"}], "tool_calls[0].name", "is null or absent"),
    ],
)
def test_what_is_no_call_is_named_whatever_the_template_says(calls: object, place: str, what: str) -> None:
    chat = [ASKED, {"role": "assistant", "content": "", "tool_calls": calls}]
    for read, kind in ((from_json, InvalidInput), (conversation_from, MalformedConversation)):
        with pytest.raises(kind) as refused:
            read(chat)
        said = refused.value.message if isinstance(refused.value, InvalidInput) else str(refused.value)
        assert said.startswith(f"messages[1].{place}: {what}")


@pytest.mark.parametrize(
    ("reply", "tool", "sentence"),
    [
        ({"tool_calls": [{"id": 7, **CALL}]}, {}, "messages[1].tool_calls[0].id: is the number 7; give text."),
        ({"tool_calls": [{**CALL, "type": 1}]}, {}, "messages[1].tool_calls[0].type: is the number 1; give text."),
        ({"tool_calls": [{**CALL, "parent": 1}]}, {}, "messages[1].tool_calls[0]: has the unknown key parent."),
        (
            {"tool_calls": [{"function": {**CALL["function"], "strict": True}}]},  # type: ignore[dict-item]  # an object
            {},
            "messages[1].tool_calls[0].function: has the unknown key strict.",
        ),
        (
            {"tool_calls": [{"name": "w", "arguments": [1]}]},
            {},
            "messages[1].tool_calls[0].arguments: is a list; give an object or text.",
        ),
        (
            {"tool_calls": [{"name": "w", "arguments": {"c": [float("inf")]}}]},
            {},
            "messages[1].tool_calls[0].arguments.c[0]: is inf, which JSON can't hold.",
        ),
        ({"tool_call_id": 3}, {}, "messages[1].tool_call_id: is the number 3; give text."),
        ({"reasoning_content": ["so"]}, {}, "messages[1].reasoning_content: is a list; give text."),
        ({}, {"name": "w", "least": float("nan")}, "tools[0].least: is nan, which JSON can't hold."),
    ],
)
def test_every_way_in_refuses_the_same_in_the_same_words(
    reply: dict[str, object], tool: dict[str, object], sentence: str
) -> None:
    document = {"messages": [ASKED, {"role": "assistant", "content": "", **reply}], "tools": [tool] if tool else None}
    with pytest.raises(InvalidInput) as sent:
        from_json(document)
    assert sent.value.message == sentence
    with pytest.raises(MalformedConversation) as masked:
        conversation_from(document)
    assert str(masked.value) == f"{sentence} {sent.value.hint}".rstrip()
    assert sentence.startswith(f"messages[1].{masked.value.field}" if reply else masked.value.field)


@pytest.mark.parametrize(
    "call",
    [
        {"name": "w", "arguments": {"c": 1}},
        {"id": None, "type": "", "parent": None, "function": {"name": "w", "arguments": None, "strict": None}},
        {"function": {"name": "w", "arguments": "{}"}, "type": "function", "id": "c1"},
    ],
)
def test_every_way_in_gives_a_template_the_same_call(call: dict[str, object]) -> None:
    document = {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    (_, reply) = conversation_from(document).messages
    assert list(reply.items()) == list(from_wire(from_json(document)).messages[1].items())


def test_an_empty_list_of_calls_or_parts_is_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}"
        "{% if 'tool_calls' in m %} calls{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    folder = source(tmp_path_factory.mktemp("empty") / "model", template=template)
    masker = Masker(load_model(folder))
    plain = [{"role": "user", "content": ""}, {"role": "assistant", "content": "It rains."}]
    empty = [{"role": "user", "content": []}, {"role": "assistant", "content": "It rains.", "tool_calls": []}]
    expected, *others = masker([plain, empty, from_wire(from_json(empty))])
    for one in others:
        assert [row.token_ids.tolist() for row in one.rows] == [row.token_ids.tolist() for row in expected.rows] != []
    parts = [{"role": "user", "content": [{"type": "text", "text": "weather?"}]}, plain[1]]
    as_sent = Masker(load_model(folder), Options(normalize_messages=False))
    for one in as_sent([parts, from_wire(from_json(parts))]):
        assert str(one.error) == (
            "messages[0].content: the template prints the list of content parts as Python code; send this content as"
            " one string"
        )


def test_text_parts_are_one_text_to_a_template_that_takes_only_text(masker: Masker) -> None:
    parts = [{"type": "text", "text": "Weather"}, {"type": "text", "text": ""}, {"type": "text", "text": "in Oslo?"}]
    reply = {"role": "assistant", "content": [{"type": "text", "text": "It rains."}]}
    sent = [{"role": "user", "content": parts}, reply]
    texts = [{"role": "user", "content": "Weather\nin Oslo?"}, {"role": "assistant", "content": "It rains."}]
    expected, *others = masker([texts, sent, from_wire(from_json(sent))])
    for one in others:
        assert [row.token_ids.tolist() for row in one.rows] == [row.token_ids.tolist() for row in expected.rows] != []
        assert [row.target_weights.tolist() for row in one.rows] == [
            row.target_weights.tolist() for row in expected.rows
        ]


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "messages[0].content: part 1 is of type 'image_url'; only"),
        ({"type": "thinking", "text": "hm"}, "messages[0].content: the template prints the list of content parts as"),
        (
            {"type": "text", "text": "b", "image": "x"},
            "messages[0].content: part 1 has the unknown key 'image'",
        ),
        ({"type": "text", "text": "b", "cache_control": {}}, "messages[0].content: part 1 has the unknown key 'cache_"),
        ({"type": "text", "text": 3}, "messages[0].content: part 1 has no text; give it text, or leave it out"),
        ({"type": "text"}, "messages[0].content: part 1 has no text; give it text, or leave it out"),
        ("b", "messages[0].content: part 1 is of type 'str'; only text can be trained on"),
    ],
)
def test_parts_that_hold_more_than_text_are_no_text(masker: Masker, part: object, sentence: str) -> None:
    asked = {"role": "user", "content": [{"type": "text", "text": "a"}, part]}
    (one,) = masker([[asked, {"role": "assistant", "content": "It rains."}]])
    assert str(one.error).startswith(sentence)


def test_two_sets_of_arguments_are_not_chosen_between() -> None:
    call = {"name": "w", "args": {"c": "Oslo"}, "input": {"c": "Rome"}}
    assert with_known_keys(call) is call
    with pytest.raises(InvalidInput, match="has the unknown key args"):
        from_json([ASKED, {"role": "assistant", "tool_calls": [call]}])


@pytest.mark.parametrize("key", ["text", "value", "message", "response", "refusal", "output"])
@pytest.mark.parametrize(
    "content",
    [{}, {"content": None}, {"content": ""}, {"content": [{"type": "text", "text": ""}]}],
    ids=["absent", "null", "empty", "empty part"],
)
def test_a_reply_under_another_key_is_not_trained_as_an_empty_one(
    masker: Masker, key: str, content: dict[str, object]
) -> None:
    chat = [ASKED, {"role": "assistant", **content, key: "It rains."}]
    (one,) = masker([chat])
    assert str(one.error).startswith(f"messages[1].{key}: stands beside an empty content")
    if not content and key in OTHER_CONTENT:
        with pytest.raises(InvalidInput, match=rf"messages\[1\]: has no content, but the key {key}\."):
            from_json(chat)
    else:
        assert str(masker([from_wire(from_json(chat))])[0].error) == str(one.error)


def test_a_key_beside_content_or_a_call_refuses_nothing(masker: Masker) -> None:
    assert trained(masker, [ASKED, {"role": "assistant", "content": "It rains.", "refusal": None, "text": "x"}])
    assert trained(masker, [ASKED, {"role": "assistant", "content": None, "text": "x", "tool_calls": [CALL]}])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ('{"c": 1e400}', "it holds a number that is too large"),
        ('{"c": ' + "9" * 5000 + "}", "it holds a number of too many digits"),
        ('{"c": ' + "[" * 200_000 + "}", "it is nested too deeply"),
    ],
    ids=["infinite", "long", "deep"],
)
def test_numbers_that_json_text_can_not_keep_are_refused(masker: Masker, arguments: str, why: str) -> None:
    call = {"type": "function", "function": {"name": "w", "arguments": arguments}}
    (one,) = masker([[ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}]])
    place = "messages[1].tool_calls[0].function.arguments"
    assert str(one.error).startswith(f"{place}: is text that is no JSON ({why}); send a JSON object")


def test_the_contract_takes_no_infinite_number() -> None:
    with pytest.raises(ValueError, match="holds NaN, Infinity or a number that is too long; send finite numbers"):
        parse_object('{"c": 1e400}')
    assert parse_object('{"c": 1e22}') == {"c": 1e22}


def test_weights_may_be_true_and_false_in_every_way_in() -> None:
    chat = [
        ASKED,
        {"role": "assistant", "content": "x", "weight": False},
        {"role": "user", "content": "y", "weight": True},
    ]
    read, sent = conversation_from(chat), from_wire(from_json(chat))
    assert [said.weight for said in read.training] == [said.weight for said in sent.training] == [None, 0.0, 1.0]


def test_roles_are_named_where_none_is_trained(masker: Masker) -> None:
    (one,) = masker([[ASKED, {"role": "model", "content": "x"}]])
    assert "chooses no message (roles: user, model); choose another policy" in str(one.error)


def test_a_reply_that_is_null_is_warned_of_where_it_is_trained(masker: Masker) -> None:
    chat = [ASKED, {"role": "assistant", "content": None}, ASKED, {"role": "assistant", "content": "It rains."}]
    said = "messages[1].content is null, and there is no call: the model learns to say nothing here"
    for document in (chat, from_wire(from_json(chat))):
        (one,) = masker([document])
        assert [warning.startswith(said) for warning in one.warnings] == [True]
    for quiet in ({"content": ""}, {"content": None, "weight": 0}, {"content": None, "tool_calls": [CALL]}):
        (one,) = masker([[ASKED, {"role": "assistant", **quiet}, *chat[2:]]])
        assert not one.warnings


def test_characters_that_axolotl_leaves_out_are_refused(masker: Masker) -> None:
    detail = [{"begin_offset": 0, "end_offset": 1, "train": False}]
    (one,) = masker([[ASKED, {"role": "assistant", "content": "It rains.", "train_detail": detail}]])
    assert str(one.error).startswith("messages[1].train_detail: marks characters of this message")
    assert trained(masker, [ASKED, {"role": "assistant", "content": "It rains.", "train_detail": []}])
