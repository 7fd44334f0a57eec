"""Whether a template takes contents as one text only, told from its syntax; where that fails, the answer is no."""

from __future__ import annotations

import pytest

from turnloom.masks.template.compiled import compile_template


def takes_only_text(inner: str) -> bool:
    return compile_template("{% for m in messages %}" + inner + "{% endfor %}").takes_only_text


@pytest.mark.parametrize(
    "inner",
    [
        "{{ m.content }}",
        "{{ m['content'] | trim }}",
        "{{ (m.get('content') or '') ~ eos_token }}",
        "{{ '<s>' + m.content.strip() + '</s>' }}",
        "{% if m.content %}{{ m.content | default('') | replace('a', 'b') }}{% endif %}",
        "{% if m.content is string %}{% set c = m.content %}{% else %}{% set c = '' %}{% endif %}{{ c }}",
        "{% if m.content is not string %}{{ raise_exception('text only: ' ~ m.content) }}{% endif %}{{ m.content }}",
        "{% set c = m.content %}{{ c.split('</think>')[-1].lstrip('\\n') }}",
        "{% for word in m.content.split(' ') %}{{ word }}{% endfor %}",
        "{{ m.content[:3] }}",
        "{% if 'content' in m and m.content is not none %}{{ m.content }}{% endif %}",
        # Beside contents, other things have texts and are looped over.
        "{% for d in documents %}{{ d['text'] }}{% endfor %}{{ m.content }}",
        "{% set ns = namespace(text='') %}{% set ns.text = ns.text ~ 'a' %}{{ ns.text }}{{ m.content }}",
        "{% for call in m.tool_calls %}{{ call.function.arguments | tojson }}{% endfor %}{{ m.content }}",
        # One role's content is written as JSON, whatever it is.
        "{% if m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}",
        "{% if m.content is mapping or m.content is iterable %}{{ m.content | tojson }}{% endif %}",
        "{% macro say(c, end='') %}{{ c | trim }}{{ end }}{% endmacro %}{{ say(m.content, end='!') }}",
        "{% generation %}{{ m.content }}{% endgeneration %}",
    ],
)
def test_what_prints_and_tests_a_text_takes_only_text(inner: str) -> None:
    assert takes_only_text(inner)


@pytest.mark.parametrize(
    "inner",
    [
        "{% for part in m.content %}{{ part.text }}{% endfor %}",
        "{% for part in m.content %}{{ part }}{% endfor %}",
        "{% for part in m.content or [] %}{{ part }}{% endfor %}",
        "{% for part in (m.content if m.content is not string else []) %}{{ part }}{% endfor %}",
        "{% for part in m['content'][1:] %}{{ part }}{% endfor %}",
        "{% for part in m.content | default([]) %}{{ part }}{% endfor %}",
        "{% for part in m.parts | default(default_value=m.content) %}{{ part }}{% endfor %}",
        "{% for part in m.content * 1 %}{{ part }}{% endfor %}",
        "{% for part in m.get('content', []) %}{{ part }}{% endfor %}",
        # One role's parts are read.
        "{% if m.role == 'user' %}{% for p in m.content %}{{ p.text }}{% endfor %}{% else %}{{ m.content }}{% endif %}",
        "{% if m.role == 'tool' %}{{ m.content[0].text }}{% else %}{{ m.content }}{% endif %}",
        # Parts without a loop.
        "{{ m.content[0] }}",
        "{{ m['content'][-1]['text'] }}",
        "{{ m.content | first }}",
        "{{ m.content | join('') }}",
        "{{ ''.join(m.content) }}",
        "{{ m.content | map(attribute='text') | join }}",
        "{{ m.content | selectattr('type', 'equalto', 'text') | list | length }}{{ m.content }}",
        "{% set first, second = m.content %}{{ first }}{{ second }}",
        "{% for part in [m.content] %}{{ part }}{% endfor %}",
        # Through variables, namespaces, macros and blocks.
        "{% set c = m.content %}{% for part in c %}{{ part }}{% endfor %}",
        "{% set c = m.content %}{% set d = c %}{% for part in d %}{{ part }}{% endfor %}",
        "{% with c = m.content %}{% for part in c %}{{ part }}{% endfor %}{% endwith %}",
        "{% set ns = namespace(c=m.content) %}{% for part in ns.c %}{{ part }}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.c = m.content %}{% for part in ns.c %}{{ part }}{% endfor %}",
        "{% set x = {'c': m.content} %}{% for part in x['c'] %}{{ part }}{% endfor %}",
        "{% macro say(c) %}{% for part in c %}{{ part }}{% endfor %}{% endmacro %}{{ say(m.content) }}",
        "{% macro say(c) %}{% for part in c %}{{ part }}{% endfor %}{% endmacro %}{{ say(c=m.content) }}",
        "{% macro say() %}{% for part in varargs[0] %}{{ part }}{% endfor %}{% endmacro %}{{ say(m.content) }}",
        "{% macro say(c) %}{{ caller(c) }}{% endmacro %}"
        "{% call(p) say(m.content) %}{% for part in p %}{{ part }}{% endfor %}{% endcall %}",
        # Parts reached without a word about content where they are read.
        "{{ m.content }}{% for k, v in m.items() %}{% for part in v %}{{ part.text }}{% endfor %}{% endfor %}",
        "{{ m.content }}{% set key = 'content' %}{% for part in m[key] %}{{ part }}{% endfor %}",
        "{{ m.content }}{% for c in messages | map(attribute='content') %}{{ c }}{% endfor %}",
        # Lists are foreseen, and written as JSON.
        "{% if m.content is not string %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}",
        "{{ m.content if m.content is string else m.content | tojson }}",
        "{% set c = m.content %}{% if c is not string %}{% set c = c | tojson %}{% endif %}{{ c }}",
        # Nothing is said of contents.
        "{{ m | tojson }}",
        "{{ m.content | pprint }}",
    ],
)
def test_what_reads_parts_or_may_read_them_does_not(inner: str) -> None:
    assert not takes_only_text(inner)


def test_a_macro_that_is_defined_twice_is_not_followed() -> None:
    loops = "{% for part in c %}{{ part }}{% endfor %}"
    macros = "{% if tools %}{% macro say(b) %}{{ b }}{% endmacro %}{% else %}{% macro say(c) %}" + loops
    assert not takes_only_text(macros + "{% endmacro %}{% endif %}{{ say(m.content) }}")
