"""Whatever a template decides by a message is asked of every message, or left to the reference."""

import logging

import pytest

from tests.support.long_way import by_the_long_way, told
from tests.support.micro_trajectories import OPTIONS
from tests.support.warm_and_fresh import unseen
from turnloom.masks.domain.conversation import JSON, Conversation, Message
from turnloom.masks.pipeline import preprocess_batch

#: Before the loop, in a reply before its text, and in each of its calls.
DECISIONS = {
    "a count against a text's length": ("", "{% if loop.index == m.content | length %}!{% endif %}", ""),
    "a text's length against a count": ("", "{% if (m.content | length) == loop.index %}!{% endif %}", ""),
    "what a loop printed, stripped": (
        "",
        "{% set x %}{% for c in m.tool_calls %} {{ c.function.name }} {% endfor %}{% endset %}[{{ x | trim }}]",
        "",
    ),
    "the length of messages, for each tool": (
        "{% for t in tools %}{{ t.name }}{% if messages | length > 5 %}!{% endif %}{% endfor %}",
        "",
        "",
    ),
    "a text of a message, for each tool": (
        "{% set s = messages[0].content %}{% for t in tools %}{{ t.name }}{{ s }}{% endfor %}",
        "",
        "",
    ),
    "the type of a joined text": ("", "{% set t = m.content ~ '!' %}", "{% if t is string %}!{% endif %}"),
    "the type of a length": ("", "{% set t = m.content | length %}", "{% if t is number %}!{% endif %}"),
    "the type of pairs": ("", "", "{% if c.function.arguments | items is sequence %}!{% endif %}"),
    "the type of a namespace": ("", "{% if ns is iterable %}!{% endif %}", ""),
    "the sign of zero": ("", "{% set t = 0.0 if m.content == 'x' else -0.0 %}", "{{ t }}"),
    "a range": ("", "{% set t = range(3 if m.content == 'x' else 2) %}", "{{ t[2] }}"),
    "an iterator that runs out": ("", "{% set t = ['a'] | map('upper') %}", "{% if 'A' in t %}!{% endif %}"),
    "a macro under another name": (
        "{% set z = messages[0].content == 'x' %}{% macro f() %}{{ z }}{% endmacro %}{% set g = f %}",
        "{{ g() }}",
        "",
    ),
    "a macro that calls one under another name": (
        "{% set z = messages[0].content == 'x' %}{% macro f() %}{{ z }}{% endmacro %}{% set g = f %}"
        "{% macro h() %}{{ g() }}{% endmacro %}",
        "{{ h() }}",
        "",
    ),
    "a macro that reads a list of texts": (
        "",
        "{% set t = [m.content, m.content == 'x'] %}{% macro f() %}{% if t[1] %}!{% endif %}{% endmacro %}",
        "{{ f() }}",
    ),
    "parts of a loop's own items": (
        "",
        "{% for a, b in [('yes', 'x')] %}{% if m.content == b %}!{% endif %}{% endfor %}",
        "",
    ),
    "tools in a reply": ("", "{% for t in tools %}{{ t.name }}{% endfor %}", ""),
    "one text of two authors": ("", "{% set t = m.content %}{% for o in messages %}{{ t }};{% endfor %}", ""),
}


def _conversation(at: int, content: str) -> Conversation:
    calls: list[JSON] = [{"type": "function", "function": {"name": "f", "arguments": {"a": "x"}}}]
    called: list[Message] = [
        {"role": "assistant", "content": content, "tool_calls": calls},
        {"role": "tool", "content": "5"},
    ]
    question: Message = {"role": "user", "content": "yx"[at % 2]}
    reply: Message = {"role": "assistant", "content": content}
    return Conversation([question, *called * (1 + at % 3), reply], tools=[{"name": "f"}])


@pytest.mark.parametrize(("before", "reply", "call"), DECISIONS.values(), ids=DECISIONS)
def test_no_message_takes_the_path_of_another(
    before: str, reply: str, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = (
        f"{{% set ns = namespace(n=0) %}}{before}{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n"
        f"{{% if m.role == 'assistant' %}}{reply}{{% endif %}}{{{{ m.content }}}}"
        f"{{% for c in m.tool_calls %}}{call}<c>{{{{ c.function | tojson }}}}</c>{{% endfor %}}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    some = [_conversation(at, content) for at, content in enumerate(("y", "x", "yes", "", "x y", "x", "y"))]
    model = unseen(source)
    with caplog.at_level(logging.ERROR):
        found = [told(preprocess_batch([one], OPTIONS, model)[0]) for one in some]
    assert found == by_the_long_way(some, OPTIONS, unseen(source))
    assert not caplog.text, "what is recorded is what the template prints"
