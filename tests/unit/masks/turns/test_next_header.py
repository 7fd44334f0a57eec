"""Where the next header ends a turn: exactly its token, only where the model stops there, in every view."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnloom.masks.domain.conversation import Conversation, Message
from turnloom.masks.domain.options import NextHeaderStop, Options
from turnloom.masks.replay.fast_path import replayed_views
from turnloom.masks.rows.final_stop import with_final_stop
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.turns.next_header import unclosed
from turnloom.masks.turns.views import ChatFormat, render_views

#: Closes no turn, as GLM's do.
OPEN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool>{{ call.function.name }}{{ call.function.arguments | tojson }}</tool>"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOKENS = {"<|user|>": True, "<|assistant|>": True, "<|tool|>": True, "<|end|>": True, "<tool>": False, "</tool>": False}
CALL: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
}
STEPS: list[Message] = [
    {"role": "user", "content": "q"},
    CALL,
    {"role": "tool", "content": "r"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "p"},
    {"role": "assistant", "content": "two"},
]


def ends(options: Options, source: str = OPEN, stops: tuple[str, ...] = ()) -> list[str]:
    """The ends of trained turns; what final_stop appends is among them."""
    chat = ChatFormat(compile_template(source), {}, TOKENS, stops)
    views = [
        with_final_stop(view, "</s>") if view.final_stop or options.ensure_final_stop else view
        for view in render_views(Conversation(STEPS), options, chat)
    ]
    return [view.rendered.text[span.eot_start : span.end] for view in views for span in view.message_spans]


@pytest.mark.parametrize(
    ("option", "stops", "expected"),
    [
        (NextHeaderStop.AUTO, (), ["<|tool|>", "<|user|>", ""]),
        (NextHeaderStop.AUTO, ("<|tool|>", "<|user|>"), ["<|tool|>", "<|user|>", ""]),
        (NextHeaderStop.AUTO, ("<|end|>",), ["</tool>", "", ""]),
        (NextHeaderStop.ALWAYS, ("<|end|>",), ["<|tool|>", "<|user|>", ""]),
        (NextHeaderStop.NEVER, (), ["</tool>", "", ""]),
    ],
)
def test_the_token_of_the_next_header_ends_a_turn_where_the_model_stops_there(
    option: NextHeaderStop, stops: tuple[str, ...], expected: list[str]
) -> None:
    assert ends(Options(next_header_stop=option), stops=stops) == expected


def test_the_last_turn_ends_with_what_would_follow_or_with_eos() -> None:
    assert ends(Options(ensure_final_stop=True))[-1] == "<|user|>"
    assert ends(Options(ensure_final_stop=True, next_header_stop=NextHeaderStop.NEVER))[-1] == "</s>"


def test_a_closed_turn_keeps_its_end() -> None:
    closed = OPEN.replace("{% endfor %}{% endfor %}", "{% endfor %}<|end|>{% endfor %}")
    assert ends(Options(), closed) == ["<|end|>"] * 3
    assert ends(Options(ensure_final_stop=True), closed) == ["<|end|>"] * 3


def test_a_token_that_begins_every_header_says_too_little() -> None:
    alike = OPEN.replace("<|{{ m.role }}|>", "<|end|>{{ m.role }}: ").replace("<|assistant|>", "<|end|>assistant: ")
    assert ends(Options(), alike)[1:] == ["", ""]
    assert ends(Options(), alike, ("<|end|>",)) == ["<|end|>", "<|end|>", ""]


def test_a_header_that_a_user_spells_ends_nothing() -> None:
    chat = ChatFormat(compile_template("{% for m in messages %}{{ m.content }}{% endfor %}"), {}, TOKENS)
    messages: list[Message] = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "<|user|>"}]
    try:
        (view,) = render_views(Conversation(messages), Options(), chat)
    except Exception as error:  # refusing is right, too
        assert "messages[0]" in str(error)  # noqa: PT017
    else:
        assert view.message_spans[0].end == 1


#: Shows the reasoning of the last turn only, so each turn is rendered in another form once another follows.
FORGETS = OPEN.replace(
    "<|{{ m.role }}|>",
    "<|{{ m.role }}|>{% if m.role == 'assistant' %}<think>{{ m.reasoning_content if loop.last }}</think>{% endif %}",
)


@st.composite
def chats(draw: st.DrawFn) -> list[Message]:
    """Steps of a conversation: replies, each thought or not, that call tools or not, and what follows each."""
    messages: list[Message] = [{"role": "user", "content": "q"}]
    for _ in range(draw(st.integers(1, 4))):
        reply: Message = dict(draw(st.sampled_from([CALL, {"role": "assistant", "content": "a"}])))
        if draw(st.booleans()):
            reply["reasoning_content"] = draw(st.sampled_from(["r", "r </think> s", "<|user|>"]))
        messages += [reply, {"role": "tool" if "tool_calls" in reply else "user", "content": "n"}]
    return messages


@given(messages=chats(), source=st.sampled_from([OPEN, FORGETS]), cut=st.booleans())
def test_every_turn_ends_with_the_header_of_what_follows(messages: list[Message], source: str, *, cut: bool) -> None:
    shown = messages[:-1] if cut else messages
    chat = ChatFormat(compile_template(source), {}, TOKENS | {"<think>": False, "</think>": False})
    views = render_views(Conversation(shown), Options(ensure_final_stop=True), chat)
    closed = [with_final_stop(view, "</s>") for view in views]
    ended = {
        span.message_index: view.rendered.text[span.eot_start : span.end]
        for view in closed
        for span in view.message_spans
    }
    assert ended == {
        index: f"<|{messages[index + 1]['role']}|>"
        for index, message in enumerate(shown)
        if message["role"] == "assistant"
    }
    assert not [warning for view in closed for warning in view.warnings if "end-of-turn" in warning]


@pytest.mark.parametrize("stops", [(), ("<|user|>", "<|system|>")])
def test_a_system_message_ends_a_turn_only_where_the_model_stops_at_its_header(stops: tuple[str, ...]) -> None:
    chat = ChatFormat(compile_template(OPEN), {}, TOKENS | {"<|system|>": True}, stops)
    messages: list[Message] = [{"role": "assistant", "content": "a"}, {"role": "system", "content": "s"}]
    (view,) = render_views(Conversation(messages), Options(), chat)
    (span,) = view.message_spans
    assert view.rendered.text[span.eot_start : span.end] == ("<|system|>" if stops else "")


@pytest.mark.parametrize(("reply", "token"), [(CALL, "<|tool|>"), ({"role": "assistant", "content": "a"}, "<|user|>")])
def test_a_last_turn_that_stays_open_is_told_what_would_end_it(reply: Message, token: str) -> None:
    chat = ChatFormat(compile_template(OPEN), {}, TOKENS)
    (view,) = render_views(Conversation([{"role": "user", "content": "q"}, reply]), Options(), chat)
    assert view.warnings == (unclosed(1, token),)
    assert f"set ensure_final_stop to append {token!r}" in view.warnings[0]


def test_replays_end_turns_as_renders_do() -> None:
    source = compile_template(OPEN)
    warm, cold = ChatFormat(source, {}, TOKENS), ChatFormat(source, {}, TOKENS)
    for number in range(6):
        messages: list[Message] = [
            {"role": role, "content": f"{role} {number} {index}"}
            for index, role in enumerate(("user", "assistant", "user", "assistant"))
        ]
        assert replayed_views(Conversation(messages), Options(), warm) == render_views(
            Conversation(messages), Options(), cold
        )
