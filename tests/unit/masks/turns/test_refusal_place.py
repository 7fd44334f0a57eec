"""A template's own error says which message and field it is about, and what to send instead."""

from __future__ import annotations

import pytest

from tests.support import chat_templates as templates
from turnloom.masks.domain.conversation import JSON, Conversation, Message
from turnloom.masks.domain.errors import TemplateRefused
from turnloom.masks.domain.options import Options
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.turns.views import ChatFormat, render_views

ONE_CALL = "{% if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
TEXT_CALL = "{% if m.tool_calls %}{{ 'call ' + m.tool_calls[0].function.arguments }}{% endif %}"
NO_TOOL = "{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"


def refusal(begin: str, *messages: Message) -> str:
    source = templates.CHATML.replace("{{ m.content }}", begin + "{{ m.content + '' }}")
    with pytest.raises(TemplateRefused) as caught:
        render_views(Conversation(messages), Options(), ChatFormat(compile_template(source), {}, {}))
    return caught.value.message


def call(arguments: JSON = None) -> JSON:
    return {"function": {"name": "f", "arguments": arguments if arguments is not None else {"a": 1}}}


ASKED: Message = {"role": "user", "content": "q"}
DONE: Message = {"role": "assistant", "content": "a"}


def test_the_message_is_the_last_of_the_shortest_beginning_that_is_refused() -> None:
    found = refusal(NO_TOOL, ASKED, DONE, ASKED, DONE, {"role": "tool", "content": "r"}, DONE, ASKED, DONE)
    assert found == "messages[4]: the chat template refuses this conversation: no tools here"


def test_the_field_is_the_one_whose_other_form_is_taken() -> None:
    two: Message = {"role": "assistant", "content": "", "tool_calls": [call(), call()]}
    assert refusal(ONE_CALL, ASKED, two) == (
        "messages[1].tool_calls: the chat template refuses this conversation: one call at a time; send one call in a"
        " message"
    )
    objects: Message = {"role": "assistant", "content": "", "tool_calls": [call()]}
    found = refusal(TEXT_CALL, ASKED, objects)
    assert found.startswith("messages[1].tool_calls[0].function.arguments: the chat template refuses")
    assert "set normalize_messages to false" in found
    assert refusal("", ASKED, {"role": "assistant", "content": None}).endswith('it is null or absent; send ""')
    parts: JSON = [{"type": "text", "text": "a"}]
    assert refusal("", ASKED, {"role": "assistant", "content": parts}).endswith("send it as one text")


def test_endless_recursion_is_told_in_the_same_words_however_deep_the_caller_is() -> None:
    endless = "{% macro f(t) %}{{ f(t | upper | lower) }}{{ t | tojson }}{% endmacro %}{{ f(m.content) }}"

    def told(depth: int) -> str:
        return told(depth - 1) if depth else refusal(endless, ASKED, DONE)

    assert {told(depth) for depth in range(40)} == {
        "messages[0]: the chat template refuses this conversation: maximum recursion depth exceeded"
    }


def test_a_variable_that_nobody_gives_is_no_fault_of_a_message() -> None:
    assert refusal("{{ functions + '' }}", ASKED, DONE) == (
        "the chat template refuses this conversation: 'functions' is undefined; give functions in chat_template_kwargs"
    )
    missing = "{% if m.role == 'user' %}{% set word = 'w' %}{% endif %}{{ word + '' }}"
    assert refusal(missing, ASKED, DONE) == (
        "messages[1]: the chat template refuses this conversation: 'word' is undefined"
    )
