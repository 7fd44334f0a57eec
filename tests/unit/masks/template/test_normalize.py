"""Messages as inference servers give them, keys of other tools, ids of calls."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnloom.masks.domain.conversation import JSON, Conversation, Message, Training
from turnloom.masks.domain.errors import InvalidTraining, UnsupportedContent
from turnloom.masks.template.call_ids import with_call_ids
from turnloom.masks.template.foreign_keys import obeyed
from turnloom.masks.template.normalize import normalized, with_one_text

TEXT = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(TEXT, VALUES, max_size=3)


def calling(arguments: JSON) -> Message:
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}],
    }


@given(ARGUMENTS)
def test_text_and_object_become_one(arguments: dict[str, JSON]) -> None:
    assert normalized([calling(json.dumps(arguments))]) == normalized([calling(arguments)])
    assert normalized([calling(arguments)])[0]["content"] == ""


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_no_arguments_are_an_empty_object(nothing: JSON) -> None:
    assert normalized([calling(nothing)]) == normalized([calling({})])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("{zone: Oslo}", "is text that is no JSON (Expecting property name enclosed in double quotes at character 1)"),
        ('{"a": NaN}', "is text that is no JSON (it holds NaN)"),
        ('{"a": 1, "a": 2}', "is text that is no JSON (one key stands twice)"),
        ("[1]", "is JSON text of a list; send a JSON object"),
        (3, "is a number; send a JSON object"),
    ],
)
def test_arguments_that_are_no_object_are_refused_by_their_place(arguments: JSON, why: str) -> None:
    with pytest.raises(UnsupportedContent) as caught:
        normalized([{"role": "user", "content": "q"}, calling(arguments)])
    assert caught.value.message.startswith(f"messages[1].tool_calls[0].function.arguments: {why}")


def test_a_message_that_needs_nothing_is_the_same_object() -> None:
    messages: list[Message] = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "name": "n"}]
    assert all(one is other for one, other in zip(normalized(messages), messages, strict=True))
    assert obeyed(conversation := Conversation(messages)) is conversation


def test_openais_first_form_becomes_tool_calls_unless_the_template_reads_it() -> None:
    legacy: Message = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}}
    (made,) = normalized([legacy])
    assert made["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
    assert "function_call" in normalized([legacy], {"function_call"})[0]
    with pytest.raises(UnsupportedContent, match=r"messages\[0\]\.function_call: and tool_calls stand beside"):
        normalized([{**legacy, "tool_calls": [{"function": {"name": "f"}}]}])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"loss_mask": 0}, Training(trainable=False)),
        ({"loss_mask": 1}, Training(trainable=True)),
        ({"loss_mask": 0.5}, Training(weight=0.5)),
        ({"loss": False}, Training(trainable=False)),
        ({"train": "false"}, Training(trainable=False)),
        ({"training": True}, Training(trainable=True)),
        ({"masked": True}, Training(trainable=False)),
        ({"loss_scale": 2}, Training(weight=2.0)),
        ({"loss_mask": None}, Training()),
    ],
)
def test_keys_of_other_tools_are_read_as_what_they_mean(keys: Message, said: Training) -> None:
    messages: list[Message] = [{"role": "assistant", "content": "a", **keys}]
    found = obeyed(Conversation(messages))
    assert (list(found.training), found.messages) == ([said], [{"role": "assistant", "content": "a"}])


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"loss": 2.31}, r"messages\[0\]\.loss: is 2\.31, which says not what is trained"),
        ({"loss_mask": [0, 1]}, r"messages\[0\]\.loss_mask: is a list, which says not"),
        ({"mask": 1}, r"messages\[0\]\.mask: does not say whether"),
        ({"loss": True, "loss_mask": 0}, r"messages\[0\]\.loss_mask: says other than another key"),
    ],
)
def test_keys_that_say_nothing_or_two_things_are_refused(keys: Message, sentence: str) -> None:
    with pytest.raises(InvalidTraining, match=sentence):
        obeyed(Conversation([{"role": "assistant", "content": "a", **keys}]))


def test_ids_are_made_in_the_form_that_the_template_demands_and_results_follow() -> None:
    calls: list[JSON] = [{"id": name, "function": {"name": name, "arguments": {}}} for name in ("f", "g")]
    messages: list[Message] = [
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "G", "tool_call_id": "g"},
        {"role": "tool", "content": "F", "tool_call_id": "f"},
        {"role": "assistant", "content": "", "tool_calls": calls[:1]},
    ]
    made = with_call_ids(messages, "{{ call.id }}")
    ids = [str(call["id"]) for message in made for call in message.get("tool_calls", [])]  # type: ignore[union-attr,index,call-overload]
    assert ids == ["functions.f:0", "functions.g:1", "functions.f:2"]
    assert [message.get("tool_call_id") for message in made[1:3]] == ["functions.g:1", "functions.f:0"]
    nine = with_call_ids(messages, "{% if call.id|length != 9 %}{{ raise_exception('no') }}{% endif %}")
    short = [str(call["id"]) for message in nine for call in message.get("tool_calls", [])]  # type: ignore[union-attr,index,call-overload]
    assert all(len(id_) == 9 and id_.isalnum() for id_ in short)
    assert len(set(short)) == 3


def parts(*texts: str) -> JSON:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (parts("a"), "a"),
        (parts(" a\n", "b"), " a\n\nb"),
        (parts("a", "", "b", ""), "a\nb"),
        (parts(""), ""),
        (tuple(parts("a", "b")), "a\nb"),  # type: ignore[arg-type]  # a list
    ],
)
def test_text_parts_become_one_text_as_in_vllm(content: JSON, text: str) -> None:
    message: Message = {"name": "n", "content": content, "role": "user"}
    made: Message = {"name": "n", "content": text, "role": "user"}
    (found,) = normalized([message], only_text=True)
    assert (list(found), found) == (list(made), made)
    assert with_one_text([message]) == [made]
    assert normalized([message])[0] is message


@pytest.mark.parametrize(
    "content",
    [
        "a",
        [*parts("a"), {"type": "image"}],  # type: ignore[misc]  # a list
        [{"type": "text", "text": "a", "image": "b"}],
        [{"type": "text", "text": None}],
        [{"type": "thinking", "text": "a"}],
        [{"text": "a"}],
        ["a"],
        {"type": "text", "text": "a"},
    ],
)
def test_contents_other_than_text_parts_stay_the_same_objects(content: JSON) -> None:
    message: Message = {"role": "user", "content": content}
    assert normalized([message], only_text=True)[0] is message
    assert with_one_text([message])[0] is message


def test_parts_beside_calls_become_one_text_too() -> None:
    message = {**calling("{}"), "content": parts("Look", "up.")}
    (found,) = normalized([message], only_text=True)
    assert (found["content"], found["tool_calls"]) == ("Look\nup.", normalized([calling({})])[0]["tool_calls"])


@pytest.mark.parametrize(
    ("given", "results", "expected"),
    [
        (["a", "a"], ["a", "a"], [0, 1]),
        (["a", None], ["a", None], [0, 1]),
        (["a", None], [None, "a"], [1, 0]),
        ([None, None], [None, None], [0, 1]),
        (["a", "b"], [None, None], [0, 1]),
        (["a", "b"], ["b", "a"], [1, 0]),
        (["a", "b"], ["a", "a"], [0, 0]),
    ],
)
def test_made_ids_give_each_result_to_its_call_though_ids_are_missing_or_stand_twice(
    given: list[str | None], results: list[str | None], expected: list[int]
) -> None:
    calls: list[JSON] = [
        {**({"id": one} if one else {}), "function": {"name": f"f{at}", "arguments": {}}}
        for at, one in enumerate(given)
    ]
    messages: list[Message] = [{"role": "assistant", "content": "", "tool_calls": calls}]
    messages += [{"role": "tool", "content": "", **({"tool_call_id": one} if one else {})} for one in results]
    _, *made = with_call_ids(messages, "{{ call.id }}")
    assert [one["tool_call_id"] for one in made] == [f"functions.f{at}:{at}" for at in expected]
