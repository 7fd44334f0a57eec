"""Compiled templates: Hugging Face's settings, kept once per source, and refused where they can't be followed."""

import datetime

import pytest

from tests.support import chat_templates as templates
from turnloom.masks.domain.errors import TemplateError, TemplateRefused
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.template.render import Settings, render, render_plain
from turnloom.masks.template.shape import signature

SETTINGS = Settings(datetime.date(2026, 1, 2), {"bos_token": "<s>", "eos_token": "</s>"}, {"eos_token": "<own>"})
MESSAGES = [
    {"role": "user", "content": "Größe <b> & \"x\" 'y'\n"},
    {
        "role": "assistant",
        "content": "Well.",
        "tool_calls": [{"function": {"name": "f", "arguments": {"é": [1.5, None]}}}],
    },
]


def test_a_source_is_compiled_once() -> None:
    assert compile_template(templates.CHATML) is compile_template(templates.CHATML)
    assert compile_template("x").sha256 == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for %}", "line 1 of the chat template: "),
        ("a\n{{ x", "line 2 of the chat template: "),
        (
            "{% autoescape true %}{{ x }}{% endautoescape %}",
            "uses ScopedEvalContextModifier; it can't be followed there",
        ),
        ("{% include 'x' %}", "uses Include"),
        ("{% generation %}", "of the chat template: "),
        ("{% for m in messages %}{% else %}{% break %}{% endfor %}", "can't be compiled: 'break' outside loop"),
        ("{% macro f(a, a) %}{% endmacro %}", "the chat template can't be compiled: duplicate argument"),
        ("{{ f(a=1, a=2) }}", "the chat template can't be compiled: keyword argument repeated"),
        ("{{ 10 ** 10000 }}", "the chat template can't be compiled: Exceeds the limit"),
        ("\ud800", "the chat template can't be compiled: 'utf-8' codec can't encode"),
    ],
)
def test_a_template_that_can_not_be_followed_is_refused_with_its_line(source: str, words: str) -> None:
    with pytest.raises(TemplateError, match=words):
        compile_template(source)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),  # trim_blocks and lstrip_blocks
        ("{% for m in messages %}{% if loop.index0 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{{ messages[0].content | tojson }}", '"Größe <b> & \\"x\\" \'y\'\\n"'),
        ("{{ messages[1].tool_calls | tojson(indent=1) | length }}", "105"),
        ("{{ strftime_now('%Y-%m-%d %H:%M') }}", "2026-01-02 00:00"),
        ("{{ bos_token }}{{ eos_token }}", "<s><own>"),
        ("{{ tools }}{{ documents }}{{ add_generation_prompt }}", "NoneNoneFalse"),
        ("{{ missing }}{{ messages[0].missing }}", ""),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{{ dict(a=1).a }}{{ dict.fromkeys(['b']) }}", "1{'b': None}"),
    ],
)
def test_settings_are_hugging_faces(source: str, text: str) -> None:
    template = compile_template(source)
    assert render_plain(MESSAGES, None, template, SETTINGS) == text
    assert render(MESSAGES, None, template, SETTINGS).text == text


def test_what_a_template_raises_is_told_in_its_own_words() -> None:
    with pytest.raises(TemplateRefused, match=r"^the chat template refuses this conversation: roles must alternate$"):
        render(MESSAGES, None, compile_template("{{ raise_exception('roles must alternate') }}"), SETTINGS)


@pytest.mark.parametrize("called", ["m.get('role')", "m.get('x', 'y')", "m.keys()"])
def test_a_method_of_a_dict_takes_no_block(called: str) -> None:
    template = compile_template(f"{{% set m = messages[0] %}}{{% call {called} %}}x{{% endcall %}}")
    for render_one in (render, render_plain):
        with pytest.raises(TemplateRefused, match="takes no keyword arguments"):
            render_one(MESSAGES, None, template, SETTINGS)


def test_needles_are_what_the_template_looks_for_in_texts() -> None:
    assert compile_template(templates.THINKING).needles == ("</think>", "<think>")
    source = (
        "{% if m.role == 'user' and m.content.startswith('/no') %}{% endif %}{% if '[X]' in m.content %}{% endif %}"
    )
    assert compile_template(source).needles == ("/no", "[X]")


def test_messages_that_templates_treat_alike_have_one_signature() -> None:
    def of(**message: object) -> object:
        return signature({"role": "assistant", **message}, ("</think>",))  # type: ignore[dict-item]

    assert of(content="a") == of(content="other")
    different = [
        of(content=""),
        of(content="a"),
        of(content=" a"),
        of(content="a "),
        of(content=" "),
        of(content=None),
        of(content="x</think>y"),
        of(content="</think>y"),
        of(content="x</think>"),
        of(content="a", name="b"),
        of(name="b", content="a"),
        of(content=[{"type": "text", "text": "a"}]),
        of(content="a", weight=1),
        of(content="a", weight=True),
        of(content="a", tool_calls=[{"function": {"name": "f", "arguments": {}}}]),
        of(content="a", tool_calls=[{"function": {"name": "f", "arguments": {"x": 1}}}]),
        of(content="a", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]),
    ]
    assert len(set(map(repr, different))) == len(different)


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_read_under_whatever_name_it_was_given(name: str) -> None:
    template = compile_template("{{ messages[0].thinking }}|{{ messages[0].reasoning_content }}")
    messages = [{"role": "assistant", "content": "", name: "Hm."}]
    assert render(messages, None, template, SETTINGS).text == "Hm.|Hm."
    assert render_plain(messages, None, template, SETTINGS) == "Hm.|Hm."


@pytest.mark.parametrize("name", ["CHATML", "THINKING", "INSTRUCT", "OPEN_ENDED", "TWO_CLOSINGS", "EPILOGUE"])
def test_renders_equal_those_of_transformers(name: str) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    source = getattr(templates, name)
    ((expected,), _) = utils.render_jinja_template(
        [MESSAGES], chat_template=source, add_generation_prompt=True, bos_token="<s>", eos_token="<own>"
    )
    given = render(MESSAGES, None, compile_template(source), SETTINGS, add_generation_prompt=True)
    assert given.text == expected
