"""Positions, choices, lists and texts that templates make of messages are walked, and come out as they do there."""

import logging
from random import Random

import pytest

from bench.trajectories import trajectories
from tests.support.long_way import by_the_long_way, told
from tests.support.micro_trajectories import OPTIONS
from tests.support.warm_and_fresh import unseen
from tests.unit.masks.trajectory.test_walked_renders import differences
from tests.unit.masks.trajectory.test_what_bodies_read import ARGUMENT, CALL, called, chat, compare
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import TemplateRefused
from turnloom.masks.pipeline import preprocess_batch
from turnloom.masks.trajectory.recorder import Recorder

GATHERED = (
    "{% set all = namespace(made=[], some=[], role=none) %}{% for m in messages + [{'role': 'end'}] %}"
    "{% if m.role != all.role or m.role == 'tool' %}{% if all.role == 'tool' %}{% set all.made = all.made + all.some %}"
    "{% elif all.role is not none %}{% set one = namespace(texts=[], calls=[]) %}{% for o in all.some %}"
    "{% set one.texts = one.texts + [o.content] %}{% if o.tool_calls %}{% set one.calls = one.calls + o.tool_calls %}"
    "{% endif %}{% endfor %}{% set all.made = all.made + [{'role': all.role, 'content': one.texts | join('\\n'), "
    "'tool_calls': one.calls}] %}{% endif %}{% if m.role != 'end' %}{% set all.some = [m] %}"
    "{% set all.role = m.role %}{% endif %}{% else %}{% set all.some = all.some + [m] %}{% endif %}{% endfor %}"
    "{% set messages = all.made %}"
)
#: What stands in the head, before a message's text, and for its calls.
MADE: dict[str, tuple[str, str, str]] = {
    "a range over all messages": (
        "{% for i in range(messages | length) %}{% if messages[i].role == 'user' %}{% set ns.n = i %}{% endif %}"
        "{% endfor %}",
        "{{ ns.n }}",
        CALL,
    ),
    "a range over the messages behind a system prompt": (
        "{% set rest = messages[1:] %}{% for i in range(rest | length) %}{% if rest[i].role == 'user' %}"
        "{% set ns.n = ns.n + i %}{% endif %}{% endfor %}",
        "{{ ns.n }}",
        CALL,
    ),
    "a range back to the first message": (
        "",
        "{% set p = namespace(role='', is=false) %}{% for j in range(loop.index0 - 1, -1, -1) %}{% if not p.is and "
        "messages[j].role != 'tool' %}{% set p.is = true %}{% set p.role = messages[j].role %}{% endif %}{% endfor %}"
        "{{ p.role }}",
        CALL,
    ),
    "a range over later messages that are printed here": (
        "",
        "{% set p = namespace(is=false) %}{% for k in range(loop.index0 + 1, messages | length) %}{% if p.is %}"
        "{% elif messages[k].role != 'tool' %}{% set p.is = true %}{% else %}{% set ns.n = k %}{{ messages[k].role }}"
        "{% endif %}{% endfor %}{{ ns.n }}",
        CALL,
    ),
    "the last message of a role": (
        "{% set u = messages | selectattr('role', 'equalto', 'user') | list %}",
        "{{ '!' if m == u[-1] }}{{ '?' if m.content == (u | first).content }}{{ u | length }}",
        CALL,
    ),
    "messages that two filters leave": (
        "{% for m in messages | rejectattr('role', 'equalto', 'tool') | selectattr('tool_calls', 'undefined') %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{% set ns.n = ns.n + 1 %}{% endif %}{% endfor %}",
        "{{ ns.n }}",
        CALL,
    ),
    "messages gathered by their roles": (GATHERED, "", CALL),
    "a list that every message adds to": (
        "{% set seen = namespace(x=[]) %}",
        "{{ '+' if m.content in seen.x }}{% set seen.x = seen.x + [m.content] %}{{ seen.x | length }}",
        CALL,
    ),
    "lists of texts that are joined": (
        "",
        "",
        "{% set l = namespace(x=[]) %}{% for c in m.tool_calls %}{% set a = namespace(x=[]) %}{% for k, v in "
        "c.function.arguments.items() %}{% set a.x = a.x + [k ~ '=' ~ (v | tojson)] %}{% endfor %}"
        "{% set l.x = l.x + [c.function.name + '(' + a.x | join(', ') + ')'] %}{% endfor %}[{{ l.x | join(', ') }}]",
    ),
    "a dict of what a call says": (
        "",
        "",
        "{% for c in m.tool_calls %}{{ {'n': c.function.name, 'of': [m.content, c.function.arguments, 1]} | tojson }}"
        "{% endfor %}",
    ),
    "arguments as they are printed": (
        "",
        "",
        "{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments }}{{ c.function.arguments | string }}"
        "{% endfor %}",
    ),
    "a text without its end": (
        "",
        "{{ m.content[1:] }}{{ m.content[0] }}",
        "{% for c in m.tool_calls %}{{ (c.function | tojson)[:-1] }};{% endfor %}",
    ),
    "a text behind another, marked as safe": ("", "{{ m.role + ':' + (m.content | tojson | safe) + '.' }}", CALL),
    "a loop that goes on": (
        "",
        "",
        ARGUMENT.replace("{{ v", "{% if v == 1 %}{% continue %}{% endif %}{{ v").replace("SHOWN", ""),
    ),
    "a loop that ends": (
        "",
        "{% for o in messages[loop.index:] %}{% if o.role != 'tool' %}{% break %}{% endif %}{{ o.role }}{% endfor %}",
        ARGUMENT.replace("SHOWN", "{% if v == 1 %}{% break %}{% endif %}"),
    ),
    "a loop that ends inside one that does, and is not walked": (
        "",
        "{% for a, b in [('w', 1), ('o', 2), ('t', 3)] if b %}{% for c in ['t', a, 'u'] if c %}{% if c == 'o' %}"
        "{% break %}{% endif %}{{ c }}{% endfor %}{% if a in m.content %}{% break %}{% endif %}{% endfor %}",
        CALL,
    ),
    "the parts of a text": (
        "{% macro f(text) %}{% set t = namespace(x='') %}{% for part in text.split('w') %}{% set t.x = t.x + "
        "(part.split('o')[0] if 'o' in part else part) %}{% endfor %}{{ t.x | trim }}{% endmacro %}",
        "{{ f(m.content) }}",
        CALL,
    ),
    "a number that a macro prints": (
        "{% macro last() %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.n = loop.index0 %}{% endif %}"
        "{% endfor %}{{ ns.n }}{% endmacro %}{% set last = last() | int %}",
        "{{ '!' if loop.index0 == last }}",
        CALL,
    ),
    "a namespace that a macro sets": (
        "{% macro f(text) %}{% if 'o' in text %}{% set ns.n = ns.n + 1 %}{% endif %}{% endmacro %}",
        "{{ f(m.content) }}{{ ns.n }}",
        CALL,
    ),
    "what a loop printed, in a list": (
        "{% set l = namespace(x=[]) %}",
        "{% set t %}{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %}{% endset %}{% set l.x = l.x + [t] %}"
        "{{ l.x[-1] }}",
        CALL,
    ),
}


@pytest.mark.parametrize("case", MADE)
def test_it_is_walked_as_the_template_prints_it(case: str, caplog: pytest.LogCaptureFixture) -> None:
    head, before, calls = MADE[case]
    source = chat(head=head, before=before, calls=calls)
    two = Conversation([{"role": "user", "content": "two"}, *called("three", a=1, b="<1>").messages])
    some = [called("x", a=1), called("y", a=1), two, *trajectories(3, seed=3, least=6, most=14)]
    for chance in (None, Random(1), Random(2)):
        assert differences(source, some, chance)[1] == []
    assert compare(source, some, caplog) > len(some)


#: What a template that gathers its text adds for a message.
GATHERS: dict[str, str] = {
    "each message once": "{% set ns.x = ns.x ~ '<|im_start|>' ~ m.role ~ '\n' ~ m.content %}CALLS"
    "{% set ns.x = ns.x ~ '<|im_end|>\n' %}",
    "what its end is asked for": "{% if ns.x and not ns.x.endswith('\n') %}{% set ns.x = ns.x ~ '\n' %}{% endif %}"
    "{% set ns.x = ns.x ~ '<|im_start|>' ~ m.role ~ '\n' ~ m.content %}CALLS{% set ns.x = ns.x ~ '<|im_end|>' %}",
    "what a message says twice, far apart": "{% set ns.x = ns.x ~ '<|im_start|>' ~ m.role ~ '\n' ~ m.content %}CALLS"
    "{% set ns.x = ns.x ~ (messages[1].content if loop.index == 4 else '') ~ '<|im_end|>\n' %}",
}


@pytest.mark.parametrize("case", GATHERS)
def test_a_text_that_is_printed_at_once_is_parted_by_its_messages(case: str, caplog: pytest.LogCaptureFixture) -> None:
    calls = (
        "{% for c in m.tool_calls %}{% set ns.x = ns.x ~ '[' ~ c.function.name ~ ' ' ~ "
        "(c.function.arguments | tojson) ~ ']' %}{% endfor %}"
    )
    source = (
        "{% set ns = namespace(x='') %}"
        f"{{% for m in messages %}}{GATHERS[case].replace('CALLS', calls)}{{% endfor %}}"
        "{% if add_generation_prompt %}{% set ns.x = ns.x ~ '<|im_start|>assistant\n' %}{% endif %}{{ ns.x }}"
    )
    some = [called("x", a=1), called("y", a=1), *trajectories(3, seed=3, least=6, most=14)]
    walked = compare(source, some, caplog)
    assert (walked > len(some)) is (case != "what a message says twice, far apart")


def test_a_range_that_the_sandbox_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording must not run a loop that the template itself never runs: it may have any length."""
    taken: list[object] = []
    monkeypatch.setattr(Recorder, "_unrolled", lambda *given: taken.append(given) or "")
    source = chat(head="{% for i in range(200_000) %}{% endfor %}")
    some = [called("x", a=1)]
    model = unseen(source)
    assert [told(one) for one in preprocess_batch(some, OPTIONS, model)] == by_the_long_way(some, OPTIONS, model)
    assert not taken


def test_calls_that_a_list_lacks_are_told(caplog: pytest.LogCaptureFixture) -> None:
    gathered = GATHERED.replace("one.calls + o.tool_calls", "one.calls + [o.tool_calls[0]]")
    source = chat(head=gathered).replace("{{ m.content }}", "{% if m.content %}{{ m.content }}{% endif %}")
    one = called("x", a=1)
    messages = [dict(message) for message in one.messages]
    for place in (1, 3):
        messages[place]["content"] = ""
        messages[place]["tool_calls"] = [*messages[place]["tool_calls"], *called("x", b=2).messages[1]["tool_calls"]]
    compare(source, [one, Conversation(messages), one], caplog)


def test_a_prompt_variant_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns that do not follow their own prompt are told by what its variants share."""
    source = chat() + "{% if add_generation_prompt and not enable_thinking %}<think></think>{% endif %}"
    model, some = unseen(source), trajectories(4, seed=7, least=6, most=12)
    wanted = by_the_long_way(some, OPTIONS, unseen(source))
    for _ in range(2):
        assert [told(one) for one in preprocess_batch(some, OPTIONS, model)] == wanted
    rendered = []
    monkeypatch.setattr("turnloom.masks.template.render.print_given", lambda *_: rendered.append(1))
    assert [told(one) for one in preprocess_batch(some, OPTIONS, model)] == wanted
    assert not rendered


#: What is raised, by the head, for a message, and for a call.
RAISES = {
    "for what follows a turn": (
        "{% for m in messages %}{% if loop.last and m.content == 'Next question.' %}{{ raise_exception('no') }}"
        "{% endif %}{% endfor %}",
        "",
        CALL,
    ),
    "for a text that it prints": (
        "",
        "{% if m.content == 'x' %}{{ raise_exception('no ' + m.content) }}{% endif %}",
        CALL,
    ),
    "for a call": ("", "", ARGUMENT.replace("SHOWN", "{% if v == 1 %}{{ raise_exception('no ' ~ k) }}{% endif %}")),
}


@pytest.mark.parametrize("case", RAISES)
def test_what_a_template_refuses_is_refused_as_it_says(case: str, caplog: pytest.LogCaptureFixture) -> None:
    head, before, calls = RAISES[case]
    source = chat(head=head, before=before, calls=calls)
    some = [called("x", a=1), called("y", a=2), called("x", a=2)]
    assert compare(source, some, caplog) >= 2
    if case != "for what follows a turn":
        with caplog.at_level(logging.DEBUG):
            (found,) = preprocess_batch(some[:1], OPTIONS, unseen(source))
        assert isinstance(found, TemplateRefused)
        assert "the chat template refuses this conversation: no " in str(found)
