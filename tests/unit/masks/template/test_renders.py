"""Many renders of one conversation, printed from what is kept, are what a render of each alone prints."""

import datetime
import random
from typing import Any

import pytest

from tests.support import chat_templates as templates
from turnloom.masks.domain.conversation import Message
from turnloom.masks.template.chain import Chain
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.template.render import Renders, Settings, render, render_plain

SETTINGS = Settings(datetime.date(2026, 1, 2), {"bos_token": "<s>", "eos_token": "</s>"})
TOOLS = [{"type": "function", "function": {"name": name, "description": "<é>"}} for name in ("find", "read")]
#: Its tools are printed by a macro that calls another, its system prompt by JSON; both depend on variables.
BY_MACRO = (
    "{% macro one(tool) %}{{ tool.function.name }}{{ mode }}{% endmacro %}"
    "{% macro all(kind, tools) %}{% for tool in tools %}{{ kind }}{{ one(tool) }};{% endfor %}{% endmacro %}"
    "{% set first = messages[0].content %}{% set count = messages | length %}"
    "{% if tools %}{{ all('f', tools) }}{{ tools | tojson }}"
    "{{ tools | tojson(indent=2) }}{{ first | tojson }}{% endif %}"
    "{{ count | tojson }}{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m.content if loop.index0 >= ns.last else '-' }}"
    "{{ m.absent }}{{ m['absent'] }}{{ m.items() | list | length }}<|im_end|>\n{% endfor %}{{ all('g', tools or []) }}"
)
#: Compares the index with attributes of a namespace in every way, and uses one of them otherwise, too.
COMPARED = (
    "{% set ns = namespace(last=-1, first=99, own=0, other='x') %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% set ns.own = loop.index %}"
    "{% if ns.first == 99 %}{% set ns.first = loop.index %}{% endif %}{% endif %}{% endfor %}"
    "{% for m in messages %}[{{ loop.index0 > ns.last }}{{ ns.last >= loop.index }}{{ loop.index0 == ns.last }}"
    "{{ ns.last != loop.index0 }}{{ loop.index < ns.first }}{{ ns.first <= loop.index0 }}{{ loop.index0 > ns.own }}"
    "{% if loop.index0 > ns.last and m.content %}{{ m.content }}{% endif %}{{ ns.own }}{{ ns.other }}"
    "{% set ns.other = m.role %}{% for c in m.content %}{{ loop.index0 > ns.last }}{% endfor %}]{% endfor %}"
)
#: The same, but that it does nothing with those of `last` and `own` but compare them.
ONLY_COMPARED = COMPARED.replace("{% for c in m.content %}{{ loop.index0 > ns.last }}{% endfor %}", "").replace(
    "{{ ns.own }}", ""
)
#: A macro that reads how many messages there are, whatever it is called by and wherever.
READS = (
    "{% macro f() %}{{ z }}{% endmacro %}{% macro run(one) %}{{ one() }}{% endmacro %}{% set z = messages | length %}"
)
LOOP = "{% for m in messages %}{{ m.content }}{{ CALL }}{% endfor %}"
SIGN = "{% set t = 0.0 if messages | length > 4 else -0.0 %}"
SOURCES = {
    "a macro under another name": READS + "{% set g = f %}{{ g() | tojson }}",
    "a macro under another name, called by a macro": READS + "{% set g = f %}{{ run(g) }}",
    "a macro under another name, for each message": READS + "{% set g = f %}" + LOOP.replace("CALL", "g()"),
    "what a macro reads, hidden": READS + "{% with z = 1 %}" + LOOP.replace("CALL", "f()") + "{% endwith %}",
    "the same in a block": READS + "{% set q %}{% set z = 1 %}" + LOOP.replace("CALL", "f()") + "{% endset %}{{ q }}",
    "a break behind a loop inside": LOOP.replace(
        "{{ CALL }}", "{% for c in [] %}{% else %}{% if m.content == '' %}{% break %}{% endif %}{% endfor %}."
    ),
    "a message passed over behind a loop inside": LOOP.replace(
        "{{ CALL }}", "{% for c in [] %}{% else %}{% if m.content == '' %}{% continue %}{% endif %}{% endfor %}."
    ),
    "the sign of zero": SIGN + LOOP.replace("CALL", "t"),
    "the sign of zero, written": SIGN + "{{ t | tojson }}",
    "compared": COMPARED,
    "compared only": ONLY_COMPARED,
    "compared and assigned": ONLY_COMPARED.replace("{% set ns.other", "{% set ns.last = ns.last + 1 %}{% set ns.other"),
    "kept calls": BY_MACRO,
    "thinking": templates.THINKING,
    "chatml": templates.CHATML,
    "two closings": templates.TWO_CLOSINGS,
    **templates.GENERATION,
}


def conversation(chance: random.Random) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": "Be <kind>."}] if chance.random() < 0.5 else []
    for at in range(chance.randint(2, 9)):
        reply: Message = {"role": "assistant", "content": f"reply {at}", "reasoning_content": "easy"}
        messages += [{"role": "user", "content": chance.choice(("Hi", "", "</think> x"))}, reply]
    return messages


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("seed", range(4))
def test_what_is_kept_prints_what_a_render_alone_prints(source: str, seed: int) -> None:
    chance, template = random.Random(seed), compile_template(source)
    messages, tools = conversation(chance), chance.choice((None, TOOLS))
    renders, probe = Renders(template, SETTINGS, tools), {"role": "user", "content": "And then?"}
    for _ in range(40):
        shown = messages[: chance.randint(1, len(messages))]
        prompt = chance.random() < 0.5
        if chance.random() < 0.5:
            traced = render(shown, tools, template, SETTINGS, add_generation_prompt=prompt)
            assert renders.traced(shown, prompt=prompt) == traced
        else:
            mode = chance.choice("ab")
            varied = Settings(SETTINGS.date, SETTINGS.special_tokens, {"mode": mode})
            followed = [*shown, probe] if chance.random() < 0.3 else shown
            plain = render_plain(followed, tools, template, varied, add_generation_prompt=prompt)
            assert renders.text(followed, prompt=prompt, mode=mode) == plain


@pytest.mark.parametrize("asks", ["loop.nextitem and loop.nextitem.role == 'tool'", "loop.last"])
def test_a_step_that_read_what_followed_it_is_kept_no_longer_than_that_follows(asks: str) -> None:
    source = f"{{% for m in messages %}}{{{{ m.content }}}}{{% if {asks} %}}!{{% endif %}}{{% endfor %}}"
    template, renders = compile_template(source), Renders(compile_template(source), SETTINGS, None)
    probe: Message = {"role": "user", "content": "And then?"}
    messages: list[Message] = [{"role": role, "content": role} for role in ("user", "assistant", "tool", "assistant")]
    for shown in ([*messages[:2], probe], messages, [*messages, probe], messages[:2], [*messages, probe]):
        assert renders.text(shown) == render_plain(shown, None, template, SETTINGS)
        assert renders.traced(shown) == render(shown, None, template, SETTINGS)


@pytest.mark.parametrize(("source", "forks"), [(ONLY_COMPARED, True), (COMPARED, False)])
def test_steps_are_kept_where_the_comparison_answers_the_same(
    source: str, forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked, made = Chain.forked, list[Chain]()

    def count(chain: Chain, *arguments: Any) -> Chain | None:
        fork = forked(chain, *arguments)
        made.extend([fork] if fork else [])
        return fork

    monkeypatch.setattr(Chain, "forked", count)
    messages = [{"role": ("user", "assistant")[at % 2], "content": "x"} for at in range(8)]
    renders = Renders(compile_template(source), SETTINGS, None)
    for shown in range(1, len(messages) + 1):
        renders.text(messages[:shown])
    assert bool(made) is forks
    assert all(len(fork) for fork in made)


def test_tools_are_written_once_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    template = compile_template(BY_MACRO)
    messages, renders = conversation(random.Random(1)), Renders(template, SETTINGS, TOOLS)
    renders.text(messages[:2])
    filters = template.plain_steps.environment.filters
    written: list[object] = []
    tojson = filters["tojson"]

    def count(value: object, **more: object) -> str:
        written.append(value)
        return str(tojson(value, **more))

    monkeypatch.setitem(filters, "tojson", count)
    for shown in range(3, len(messages)):
        renders.text(messages[:shown], prompt=True)
    assert TOOLS not in written
    assert written == list(range(3, len(messages)))


@pytest.mark.parametrize("reached", ["_steps.begin(0, loop, m)", "_steps.end(loop, 'x')"])
def test_a_template_can_not_call_the_steps_itself(reached: str) -> None:
    template = compile_template("{% for m in messages %}{{ " + reached + " }}{% endfor %}")
    with pytest.raises(Exception, match="not safely callable"):
        Renders(template, SETTINGS, None).text([{"role": "user", "content": "Hi"}])
