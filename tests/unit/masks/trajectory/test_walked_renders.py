"""What is walked prints what the template prints, character and origin for character and origin."""

import datetime
import logging
import random
from collections.abc import Sequence

import pytest

from bench.trajectories import trajectories
from tests.support.chat_templates import SPECIAL_TOKENS
from turnloom.masks.domain.conversation import JSON, Conversation, Message
from turnloom.masks.domain.errors import TemplateRefused
from turnloom.masks.domain.rendered_text import RenderedText
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.template.prompts import PLAIN_REPLY, PROBE
from turnloom.masks.template.render import Renders, Settings, variables_of
from turnloom.masks.trajectory.family import Family
from turnloom.masks.trajectory.programs.program import UnreplayableError
from turnloom.masks.trajectory.renders import Sender

SETTINGS = Settings(datetime.date(2026, 1, 1), SPECIAL_TOKENS)
QWEN = (
    "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% set ns = namespace(open=true, last=messages | length - 1) %}{% for message in messages[::-1] %}"
    "{% set index = (messages | length - 1) - loop.index0 %}{% if ns.open and message.role == 'user' %}"
    "{% set ns.open = false %}{% set ns.last = index %}{% endif %}{% endfor %}{% for message in messages %}"
    "{% if message.role == 'user' or (message.role == 'system' and not loop.first) %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% elif message.role == 'assistant' %}<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last and (loop.last or message.reasoning_content) %}<think>\n"
    "{{ message.reasoning_content }}\n</think>\n\n{% endif %}{{ message.content }}"
    "{% for call in message.tool_calls %}{% if (loop.first and message.content) or not loop.first %}\n{% endif %}"
    "{% set call = call.function %}<tool_call>{{ call.name }} {% for k, v in call.arguments | items %}{{ k }}="
    "{{ v if v is string else v | tojson }};{% endfor %}</tool_call>{% endfor %}<|im_end|>\n"
    "{% elif message.role == 'tool' %}{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user"
    "{% endif %}\n<r>{{ message.content }}</r>{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}"
    "<|im_end|>\n{% endif %}{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LATER = (
    "{% set ns = namespace(name='') %}{% for m in messages %}{% set later = namespace(found=false) %}"
    "{% for other in messages[loop.index:] %}{% if other.role == 'assistant' and 'tool_calls' not in other %}"
    "{% set later.found = true %}{% endif %}{% endfor %}<|im_start|>{{ m.role }}{{ '!' if later.found else '?' }}"
    "{% if 'tool_calls' in m %}{% set ns.name = m.tool_calls[0].function.name %}{{ m.tool_calls | length }}{% endif %}"
    "{{ ns.name }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
MACRO = (
    "{% macro shown(text) %}{{ text }}{% endmacro %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% set content = shown(m.content) %}{% if 'e' in content %}*{% endif %}{{ content.strip() }}"
    "{{ loop.index % 2 }}{{ loop.length }}<|im_end|>\n{% endfor %}"
)


#: A loop over the later messages, and what it may do.
AHEAD = (
    "{% for m in messages %}{% set later = namespace(found=false, name='-', count=0) %}"
    "{% for other in messages[loop.index:] %}BODY{% endfor %}<|im_start|>{{ m.role }}"
    "{{ later.found }}{{ later.name }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
BODIES = (
    "{% if other.role == 'assistant' and 'tool_calls' not in other %}{% set later.found = true %}{% endif %}",
    "{% if other.role == 'user' %}{% set later.found = true %}{% else %}{% set later.found = false %}{% endif %}",
    "{% if not later.found and other.role == 'tool' %}{% set later.found = true %}{% endif %}",
    "{% if other.tool_calls %}{% set later.name = other.tool_calls[0].function.name %}{% endif %}",
    "{% if later.name == '-' and other.role == 'tool' %}{% set later.name = other.content %}{% endif %}",
    "{% if other.role == 'user' and m.role == 'tool' %}{% set later.found = true %}{% endif %}",
    "{% if other.role == 'user' %}{{ other.role }}{% set later.found = true %}{% endif %}",
    "{% if messages[-1].role == 'user' %}{% set later.found = true %}{% endif %}",
)


def asked(conversation: Conversation) -> list[tuple[int, Sequence[Message], bool]]:
    """All that is asked of a conversation: its beginnings, with a prompt, and with other messages behind them."""
    count = len(conversation.messages)
    return [
        (shown, more, prompt)
        for shown in (count, *range(1, count))
        for more, prompt in (((), False), ((), True), ((PROBE,), False), ((PLAIN_REPLY, PROBE), False))
    ]


def differences(
    source: str, conversations: Sequence[Conversation], chance: random.Random | None = None
) -> tuple[int, list[object]]:
    """How many renders are walked, and those that differ; `chance` shuffles them."""
    template, family = compile_template(source), Family(source, variables_of(SETTINGS))
    walked, differing = 0, list[object]()
    for conversation in conversations:
        sender = Sender(conversation.messages, conversation.tools)
        renders = Renders(template, SETTINGS, conversation.tools)
        order = asked(conversation)
        if chance is not None:
            chance.shuffle(order)
        for shown, more, prompt in order:
            try:
                wanted: object = renders.traced([*conversation.messages[:shown], *more], prompt=prompt)
            except TemplateRefused:
                wanted = None
            try:
                node = sender.render(shown, more, prompt=prompt, family=family)
            except UnreplayableError:
                continue
            walked += 1
            found = node.rendered()
            same = isinstance(wanted, RenderedText) and (found.text, found.runs) == (wanted.text, wanted.runs)
            if not same or node.text() != found.text or node.end != len(found.text):
                differing.append((shown, more, prompt, found, wanted))
    return walked, differing


@pytest.mark.parametrize("source", [QWEN, LATER, MACRO])
def test_every_render_that_a_conversation_needs_is_walked_as_the_template_prints_it(source: str) -> None:
    some = trajectories(2, seed=2, most=12)
    walked, differing = differences(source, some)
    assert differing == []
    assert walked == sum(len(asked(one)) for one in some)


#: What a loop over tools may print, and whether it can be walked.
TOOL_BODIES = {
    "{{ tool | tojson }}\n": True,
    "{{ loop.index }}{{ tool.function.name }}{% for name, spec in tool.function.parameters.properties | items %}"
    "{{ name }}:{{ spec.type }}{% if 'e' in spec.description %} {{ spec.description | trim }}{% endif %}{% endfor %}"
    "{% if not loop.last %},{% endif %}": True,
    "{% set f = tool.function %}{% for key in f if key not in ['name'] %}<{{ key }}>{{ f[key] | tojson }}"
    "{% endfor %}": True,
    "{% set p = tool.function.parameters %}{% if p.properties %}{% for key, spec in p.properties | items %}{{ '\n' ~"
    " key ~ '?' ~ (spec | tojson | safe) if key not in (p.required or []) else key }}{% endfor %}{% endif %}": True,
    "{{ tool.function.name | upper }}{% for key, _ in tool.function | dictsort %}{{ key }}{% endfor %}": True,
    "{{ tool.function.name | title }}": False,
}


@pytest.mark.parametrize(("body", "is_walked"), TOOL_BODIES.items())
def test_tools_are_walked_and_printed_by_the_template_where_they_can_not_be(body: str, is_walked: bool) -> None:
    source = f"{{% for tool in tools %}}{body}{{% endfor %}}" + QWEN[QWEN.index("{% set ns") :]
    template, family = compile_template(source), Family(source, variables_of(SETTINGS))
    for conversation in trajectories(4, seed=21, most=9):
        tools: list[JSON] = [
            *(conversation.tools or ()),
            {"type": "function", "function": {"name": "\u00e9", "parameters": {}}},
        ]
        sender = Sender(conversation.messages, tools)
        for shown in (2, len(conversation.messages)):
            found = sender.render(shown, prompt=True, family=family).rendered()
            wanted = Renders(template, SETTINGS, tools).traced(conversation.messages[:shown], prompt=True)
            assert (found.text, found.runs) == (wanted.text, wanted.runs)
    assert bool(family.unwalked) is not is_walked


@pytest.mark.parametrize("body", BODIES)
def test_what_a_loop_ahead_comes_out_as_is_told_whatever_was_rendered_before(body: str) -> None:
    some = trajectories(4, seed=5, most=14)
    for chance in (None, random.Random(1), random.Random(2)):
        walked, differing = differences(AHEAD.replace("BODY", body), some, chance)
        assert differing == []
        assert walked >= sum(len(asked(one)) for one in some) * (0.9 if "messages[-1]" not in body else 0)


@pytest.mark.parametrize(
    "expression",
    [
        *("m.content | upper", "m.content | length | string", "m.content[0]", "m.content[1:]", "m.content ~ 1 * 2"),
        *("(m.content ~ m.role).strip()", "m.content | urlize", "m | tojson", "m.items() | list", "messages | tojson"),
        *("loop.changed(m.content)", "loop.cycle('a', 'b')", "m.content.split() | join", "m.content < 'm'"),
        *("messages | selectattr('role', 'equalto', 'user') | list | length", "messages[1:2] | length", "m | length"),
        *("(m.tool_calls | default([])) | map(attribute='id') | join", "m.content is sameas 'x'", "m.keys() | list"),
    ],
)
def test_what_is_not_followed_is_left_to_the_template_and_never_printed_otherwise(expression: str) -> None:
    source = f"{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{{{ {expression} }}}}<|im_end|>\n{{% endfor %}}"
    assert differences(source, trajectories(2, seed=3, most=9))[1] == []


def test_a_text_that_is_parted_by_its_messages_is_not_kept_as_a_whole_too() -> None:
    """A thousand messages in a list that is joined in the end took 450 MB more: every render has another whole."""
    source = (
        "{% set g = namespace(t=[]) %}{% for m in messages %}{% set g.t = g.t + [m.role ~ ':' ~ m.content] %}"
        "{% endfor %}{{ g.t | join('|') }}"
    )
    (one,) = trajectories(1, seed=4, least=30, most=30)
    sender, family = Sender(one.messages, one.tools), Family(source, variables_of(SETTINGS))
    whole = [sender.render(shown, family=family).text() for shown in range(4, 30)]
    kept = sum(len(piece.text) for pieces in sender._pieces.values() for piece in pieces)
    assert kept < 2 * len(whole[-1])


def test_a_template_that_prints_by_chance_is_not_recorded() -> None:
    assert Family("{{ [1, 2] | random }}{% for m in messages %}{{ m.content }}{% endfor %}", {}).compiled is None


def test_a_render_that_differs_from_the_template_ends_the_recording(caplog: pytest.LogCaptureFixture) -> None:
    (one,) = trajectories(1, seed=4, most=9)
    family = Family(MACRO, variables_of(SETTINGS))
    other = Sender(one.messages, one.tools, lambda *_: RenderedText("other", ((5, None),)))
    with caplog.at_level(logging.ERROR), pytest.raises(UnreplayableError):
        other.render(len(one.messages), family=family)
    assert "differs from the template's" in caplog.text
    with pytest.raises(UnreplayableError):
        Sender(one.messages, one.tools).render(len(one.messages), family=family)
