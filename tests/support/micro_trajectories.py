"""Random small templates with tools, calls and results, and trajectories that hit what they decide by.

`python -m tests.support.micro_trajectories [--conversations N] [--seed S]` compares a warm model's outcomes with those
of the reference: there must be no difference.
"""

from __future__ import annotations

import sys
from random import Random
from typing import Final

from tests.support.long_way import by_the_long_way, told
from tests.support.many_templates import Difference, Seen, main
from tests.support.micro_templates import TEXTS, WORDS, MicroTemplate
from tests.support.warm_and_fresh import unseen
from turnloom.masks.domain.conversation import JSON, Conversation, Message
from turnloom.masks.domain.options import Options
from turnloom.masks.pipeline import preprocess_batch
from turnloom.masks.trajectory.family import compiled
from turnloom.masks.trajectory.path import trajectory_path_of

OPTIONS: Final = Options(date="2026-01-02", max_length=None)
_HEADS: Final = (
    *("",) * 4,
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}",
    "{% if tools %}[{% for t in tools %}{{ t.name }}{% if not loop.last %}, {% endif %}{% endfor %}]{% endif %}",
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}!{% set messages = messages[1:] %}{% endif %}",
    "{% for m in messages[::-1] %}{% if not ns.flag and m.role == 'user' %}{% set ns.flag = true %}"
    "{% set ns.n = messages | length - 1 - loop.index0 %}{% endif %}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.n = loop.index0 %}{% endif %}{% endfor %}",
    # Messages say something before their turns.
    "{% for m in messages %}{{ m.content[:3] if m.role != 'assistant' }}{% endfor %}",
    "{% for m in messages[:-1] %}{{ m.tool_calls | tojson if m.tool_calls }}{{ m.reasoning_content }}{% endfor %}",
    "{% for t in tools %}{{ t.name }}{% if messages | length > 5 %}!{% endif %}{% endfor %}",
    "{% set s = messages[0].content %}{% for t in tools %}{{ t.name }}{{ s }}{% endfor %}",
    "{% for t in tools %}{% for k in t if k not in ['name', 'x'] %}<{{ k }}>{{ t[k] }}{% endfor %}{% endfor %}",
    "{% for t in tools if t.name in ['f', 'x'] %}{{ t.name }}{% endfor %}{{ tools | tojson if tools }}\n",
    "{% for t in tools %}{% set ns.seen = ns.seen ~ t.name ~ ', ' %}{% endfor %}{{ ns.seen }}\n",
    "{% for t in tools %}{% for k, v in t | dictsort %}{{ k | upper }}: {{ v | tojson }}{% endfor %}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{% endfor %}{% for k in tools[0] %}{{ k }};{% endfor %}",
    "{% for t in tools %}{{ '\n' ~ (t.description | tojson | safe) ~ '!' }}{{ t.name in t.required }}{% endfor %}",
    "{% for i in range(messages | length) %}{% if messages[i].role == 'user' %}{% set ns.n = i %}{% endif %}"
    "{% endfor %}",
    "{% for m in messages | rejectattr('role', 'equalto', 'tool') %}{% if loop.last and m.content == 'x' %}"
    "{{ raise_exception('no ' ~ m.content) }}{% endif %}{% endfor %}",
    "{% set l = namespace(x=[]) %}{% for t in tools %}{% set l.x = l.x + [t.name, t.description] %}{% endfor %}"
    "{{ l.x | join(', ') }}\n",
    # Messages of one role are joined first, as in Mistral's own templates.
    "{% set all = namespace(made=[], some=[], role=none) %}{% for m in messages + [{'role': 'end'}] %}"
    "{% if m.role != all.role or m.role == 'tool' %}{% if all.role == 'tool' %}{% set all.made = all.made + all.some %}"
    "{% elif all.role is not none %}{% set one = namespace(texts=[], calls=[]) %}{% for o in all.some %}"
    "{% set one.texts = one.texts + [o.content] %}{% if o.tool_calls %}{% set one.calls = one.calls + o.tool_calls %}"
    "{% endif %}{% endfor %}{% set all.made = all.made + [{'role': all.role, 'content': one.texts | join('\n'), "
    "'tool_calls': one.calls}] %}{% endif %}{% if m.role != 'end' %}{% set all.some = [m] %}"
    "{% set all.role = m.role %}{% endif %}{% else %}{% set all.some = all.some + [m] %}{% endif %}{% endfor %}"
    "{% set messages = all.made %}",
)
#: What templates ask of an argument.
_ASKS: Final = ("v == 1.0", "v in [1.0, 'x']", "v == 1", "v is number", "v is none", "v", "v == 'x'", "v is eq 0")
_CALLS: Final = (
    "{% for c in m.tool_calls %}<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>{% endfor %}",
    "{% for c in m.tool_calls %}{% if c.function %}{% set c = c.function %}{% endif %}{% if not loop.first %},\n"
    "{% endif %}{{ c.name }}({% for k, v in c.arguments | items %}{{ k }}={% if v is string %}{{ v }}{% else %}"
    "{{ v | tojson }}{% endif %}{% if not loop.last %}, {% endif %}{% endfor %}){% endfor %}",
    "{% for c in m.tool_calls %}{% if (loop.first and m.content) or not loop.first %}\n{% endif %}"
    "{{ c.function | tojson }}{% endfor %}",
    "{{ m.tool_calls[0].function.name }}:{{ m.tool_calls[0].function.arguments | tojson }}",
    "{{ m.tool_calls[0].function.name }}:{{ m.tool_calls[0].function.arguments | tojson }}"
    "{% set ns.seen = m.tool_calls[0].function.name %}",
    "{% for c in m.tool_calls %}<function={{ c.function.name }}>{% for k, v in c.function.arguments | items %}"
    "<p={{ k }}>{{ v if v is string else (v | tojson if v is mapping or v is sequence else v | string) }}</p>"
    "{% endfor %}{% endfor %}",
    "{% for c in m.tool_calls %}call{{ c.function.name }} {% for k, v in c.function.arguments | items %}"
    "a{{ k }}={{ v }}.{% endfor %}{% endfor %}",
    "{{ m.tool_calls | tojson }}",
    "{% for c in m.tool_calls %}{{ {'name': c.function.name, 'is': [c.function.arguments, 1, none]} | tojson }}"
    "{% endfor %}",
    "{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | string }}{{ c.function.arguments }}"
    "{% endfor %}",
    "{% for c in m.tool_calls %}{% if c.function.name == 'x' %}{% continue %}{% endif %}"
    "{{ (c.function | tojson)[:-1] }};{% endfor %}",
    "{% for c in m.tool_calls %}{% if c.function.name == 'x' %}{% break %}{% endif %}{{ c.function.name }};"
    "{% endfor %}",
    "{% set l = namespace(x=[]) %}{% for c in m.tool_calls %}{% set a = namespace(x=[]) %}{% for k, v in "
    "c.function.arguments.items() %}{% set a.x = a.x + [k ~ '=' ~ (v if v is string else v | tojson)] %}{% endfor %}"
    "{% set l.x = l.x + [c.function.name + '(' + a.x | join(', ') + ')'] %}{% endfor %}[{{ l.x | join(', ') }}]",
    "{% for c in m.tool_calls %}{{ m.content }}: {{ c.function | tojson }}{% endfor %}",
    "{% for c in m.tool_calls %}{{ c | tojson }}{{ c.function.name }}{% endfor %}",
    "{% for c in m.tool_calls %}{% set a = c.function.arguments %}{% for k in a if k not in ['x', 'limit'] %}"
    "<{{ k }}>{{ a[k] | tojson }}{% endfor %}{{ '!' if 'get' in a }}{% endfor %}",
    "{% for c in m.tool_calls %}{{ c.function.name }}{% set a = c.function.arguments %}{% for one, _ in a | items %}"
    "{% for k, v in a | items %} {{ k }}={{ v | tojson }};{% endfor %}{% endfor %}{% endfor %}",
    "{% for c in m.tool_calls %}{% for k, v in c.function.arguments | items %}{{ k }}={{ v | tojson }}"
    "{% if v is sequence and v is not string and (k in v or 'x' in v) %}!{% endif %}{% endfor %}{% endfor %}",
    *(
        "{% for c in m.tool_calls %}{{ c.function.name }}{% for k, v in c.function.arguments | items %} {{ k }}="
        f"{{% if {asks} %}}!{{% endif %}}{{{{ v if v is string else v | tojson }}}}{{% endfor %}};{{% endfor %}}"
        for asks in _ASKS
    ),
)
_RESULTS: Final = (
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user\n{% endif %}<r>{{ m.content }}</r>"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}",
    "{% if loop.previtem and loop.previtem.role != 'tool' %}<|im_start|>user\n{% endif %}<r>{{ m.content }}</r>"
    "{% if not loop.last and loop.nextitem.role != 'tool' %}<|im_end|>\n{% elif loop.last %}<|im_end|>\n{% endif %}",
    "<|im_start|>tool\n{{ m.content | tojson }}<|im_end|>\n",
    "<|im_start|>{{ ns.seen }}\n{{ m.content }}<|im_end|>\n",
    "{% if not ns.flag %}{% set ns.seen = m.content %}{% endif %}<|im_start|>{{ ns.seen }}\n{{ m.content }}"
    "<|im_end|>\n",
)
#: What a template defines before its loop, and calls in its steps: macros see the namespace that the steps set.
_MACROS: Final = (
    *(("", ""),) * 8,
    ("{% macro f() %}{% if ns.seen %}{{ ns.seen }}!{% endif %}{% endmacro %}", "{{ f() }}"),
    ("{% macro f() %}{% if ns.n %}!{% set ns.n = 0 %}{% endif %}{% endmacro %}", "{{ f() }}"),
    ("{% macro f() %}{{ z }}{% endmacro %}{% set z = messages[0].content == 'x' %}{% set g = f %}", "{{ g() }}"),
    ("", "{% if loop.index == m.content | length %}!{% endif %}"),
    ("", "{% set t = m.content %}{% for o in messages %}{{ t }};{% endfor %}"),
    ("", "{% for a, b in [('yes', 'x')] %}{% if m.content == b %}!{% endif %}{% endfor %}"),
    ("", "{% set t = m.content ~ '!' %}{% for c in m.tool_calls %}{{ t is string }}{% endfor %}"),
    ("", "{% set t %}{% for c in m.tool_calls %} {{ c.function.name }} {% endfor %}{% endset %}{{ t | trim }}"),
    ("", "{% set t = 0.0 if m.content == 'x' else -0.0 %}{% for c in m.tool_calls %}{{ t }}{% endfor %}"),
    ("", "{% if m.content == 'x' %}{{ raise_exception('no ' ~ m.content) }}{% endif %}"),
    ("{% set g = namespace(x=[]) %}", "{{ '+' if m.content in g.x }}{% set g.x = g.x + [m.content] %}"),
    (
        "{% set u = messages | selectattr('role', 'equalto', 'user') | list %}",
        "{{ '!' if m.content == u[-1].content }}",
    ),
    ("{% set u = messages | selectattr('tool_calls', 'defined') | list %}", "{{ u | length }}{{ '!' if m == u[0] }}"),
    (
        "",
        "{% set p = namespace(role='', is=false) %}{% for j in range(loop.index0 - 1, -1, -1) %}{% if not p.is and "
        "messages[j].role != 'tool' %}{% set p.is = true %}{% set p.role = messages[j].role %}{% endif %}{% endfor %}"
        "{{ p.role }}",
    ),
    (
        "",
        "{% set p = namespace(is=false) %}{% for k in range(loop.index0 + 1, messages | length) %}{% if p.is %}"
        "{% elif messages[k].role != 'tool' %}{% set p.is = true %}{% else %}{% set ns.flag = true %}"
        "({{ messages[k].content }}){% endif %}{% endfor %}",
    ),
    (
        "",
        "{% for o in messages[loop.index:] %}{% if o.role != 'tool' %}{% break %}{% endif %}{{ o.content }}"
        "{% endfor %}",
    ),
    (
        "",
        "{% set t = namespace(x='') %}{% for part in m.content.split('x') %}{% set t.x = t.x + (part.split('<')[0] if "
        "'<' in part else part) %}{% endfor %}{{ t.x | trim }}",
    ),
    ("{% macro f(text) %}{{ text }}{% if ns.flag %}?{% endif %}{% endmacro %}", "{{ f(m.role) }}"),
    (
        "{% macro g() %}{{ tools | length if tools else 0 }}{% endmacro %}{% macro f() %}{{ g() }}{% endmacro %}",
        "{{ f() }}",
    ),
)
#: What a step for a result sets.
_SETS: Final = (
    *("",) * 12,
    *("{% set ns.seen = ns.seen ~ m.content ~ ',' %}", "{% set ns.seen = ' ' ~ m.content ~ ns.seen %}"),
    *("{% set ns.seen = 'x' %}", "{% set ns.flag = true %}", "{% set ns.n = loop.index %}", "{% set ns.n = 0 %}"),
)
_THOUGHTS: Final = (
    "",
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}",
    "{% if m.reasoning_content and loop.index0 > ns.n %}<think>\n{{ m.reasoning_content.strip('\\n') }}\n</think>\n\n"
    "{% endif %}",
    "{% if loop.last and m.reasoning_content is defined %}<think>{{ m.reasoning_content }}</think>{% endif %}",
)
_CONTENTS: Final = (
    *("m.content",) * 8,
    *("m.content | trim", "m.content.strip(' x')", "m.content.strip('\\n').lstrip()", "m.content ~ m.content"),
    *("m.content | tojson", "m.content.split('</think>')[-1]", "m.content[1:-1]", "m.content[0]"),
    *("'<' + (m.content | tojson | safe)", "{'a': m.content, 'b': [m.role, 1]} | tojson"),
    *("'\"' + m.content + '<' + (m.role | safe) + '&'", "(m.content | safe) + m.content", "m.content | float | string"),
    *("{'a': m.content | float, 'b': [m.content] | length} | tojson",),
    *("(' ' ~ m.content ~ '!\\n') | trim", "(m.content ~ ' ' ~ m.content).strip()", "m.content | upper"),
    *("('x</think>' ~ m.content ~ '!').split('</think>')[-1] | trim", "(m.content ~ '</think> ').split('</think>')[0]"),
    *("(m.content if m.content in ns.seen else 'no')", "('!' if ns.seen in m.content else '?')"),
    *("(ns.seen ~ m.content)", "('a' if '<' ~ m.content in '<x<e' ~ m.content ~ '>' else 'b')"),
)
_NAMES: Final = ("f", "get", "x", "name")
_KEYS: Final = (*_NAMES, "limit", "", "a b", 'a"b', "\u00a0", "type", "1")
#: Texts that are literals of templates, or that a filter or tokenizer may take for something else.
_ODD: Final = (
    "<|im_end|>\n",
    "<|im_start|>assistant\n",
    "e\u0301",
    "\u00a0x\u00a0",
    "\U0001f468\u200d",
    "\x1c",
    "\r\n",
    "null",
)
_VALUES: Final = (*WORDS, 'a"b', "é\n", 5, 0, 1, 1.0, 1.5, 0.0, -0.0, 1e3, 1e22, 10**20, True, False, None)


#: Share of templates that drop what came before the last question.
DROPPING: Final = 0.1
#: Share of templates that gather all text in a namespace, and print it in the end.
GATHERED: Final = 0.1


def source(chance: Random) -> str:
    """A template with a few decisions about messages, tools, calls and results."""
    micro = MicroTemplate(chance)
    decisions = [micro._decision(counting=chance.random() < 0.3) for _ in range(3)]
    content = chance.choice(_CONTENTS)
    macro, called = chance.choice(_MACROS)
    head = chance.choice(_HEADS)
    step = (
        f"{{% if m.role == 'assistant' %}}{called}{decisions[0]}<|im_start|>assistant\n"
        f"{chance.choice(_THOUGHTS)}{{{{ {content} }}}}{decisions[1]}"
        f"{{% if m.tool_calls %}}{chance.choice(_CALLS)}{{% endif %}}<|im_end|>\n"
        f"{{% elif m.role == 'tool' %}}{chance.choice(_RESULTS)}{chance.choice(_SETS)}"
        f"{{% else %}}<|im_start|>{{{{ m.role }}}}\n{{{{ m.content }}}}{decisions[2]}<|im_end|>\n{{% endif %}}"
    )
    last = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    if chance.random() < DROPPING:
        head += (
            "{% set q = namespace(n=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set q.n = loop.index0 %}"
            "{% endif %}{% endfor %}"
        )
        dropped = chance.choice(("m.role != 'user'", "m.role == 'tool' or m.tool_calls", "m.tool_calls"))
        step = f"{{% if not (({dropped}) and loop.index0 < q.n) %}}{step}{{% endif %}}"
    if chance.random() < GATHERED:
        head, step, last = (
            f"{{% set t %}}{one}{{% endset %}}{{% set ns.out = ns.out ~ t %}}" for one in (head, step, last)
        )
        last += "{{ ns.out }}"
    return (
        f"{{% set ns = namespace(n=0, seen='', flag=false, out='') %}}{macro}{head}"
        f"{{% for m in messages %}}{step}{{% endfor %}}{last}"
    )


def conversations(chance: Random, count: int) -> list[Conversation]:
    """Trajectories of one to seventeen messages, some in text parts, some out of turn."""
    texts = [*chance.sample(TEXTS, 4), *chance.sample(_ODD, 2)]
    return [_conversation(chance, texts) for _ in range(count)]


def _conversation(chance: Random, texts: list[str]) -> Conversation:
    messages: list[Message] = []
    if chance.random() < 0.3:
        messages.append({"role": "system", "content": chance.choice(texts)})
    messages.append({"role": "user", "content": chance.choice(texts)})
    reasoned = chance.random() < 0.5
    for _ in range(chance.randint(0, 4)):
        if chance.random() < 0.3:
            messages += [_reply(chance, texts, reasoned), {"role": "user", "content": chance.choice(texts)}]
            continue
        if chance.random() < 0.1:  # out of turn
            either: list[Message] = [_reply(chance, texts, reasoned), {"role": "user", "content": texts[0]}]
            messages.append(chance.choice(either))
        calls = [_call(chance) for _ in range(chance.choice((1, 1, 2)))]
        messages.append({**_reply(chance, texts, reasoned), "tool_calls": calls})
        messages += [{"role": "tool", "content": chance.choice(texts)} for _ in calls]
    if chance.random() < 0.8:
        messages.append(_reply(chance, texts, reasoned))
    if chance.random() < 0.1:
        messages = [_in_parts(message) for message in messages]
    tools: list[JSON] = [_tool(chance, texts) for _ in range(2)]
    return Conversation(messages, tools=chance.choice((tools, tools, tools[:1], [])))


def _tool(chance: Random, texts: list[str]) -> JSON:
    tool: dict[str, JSON] = {"name": chance.choice(_NAMES), "description": chance.choice(texts)}
    if chance.random() < 0.3:
        tool["required"] = list(chance.sample(_NAMES, 2))
    if chance.random() < 0.2:
        tool[chance.choice(_KEYS)] = _value(chance, depth=0)
    return tool


def _in_parts(message: Message) -> Message:
    content = message["content"]
    assert isinstance(content, str)
    return {**message, "content": [{"type": "text", "text": text} for text in content.split("\n")]}


def _reply(chance: Random, texts: list[str], reasoned: bool) -> Message:
    message: Message = {"role": "assistant", "content": chance.choice(texts)}
    if reasoned and chance.random() < 0.8:
        message["reasoning_content"] = chance.choice(texts)
    return message


def _call(chance: Random) -> JSON:
    arguments: dict[str, JSON] = {chance.choice(_KEYS): _value(chance, depth=0) for _ in range(chance.randint(0, 2))}
    return {"id": "c1", "type": "function", "function": {"name": chance.choice(_NAMES), "arguments": arguments}}


def _value(chance: Random, depth: int) -> JSON:
    kind = chance.random()
    if kind < 0.5 or depth > 1:
        return chance.choice((*_VALUES, *_ODD))
    if kind < 0.75:
        return [_value(chance, depth + 1) for _ in range(chance.randint(0, 2))]
    return {chance.choice(_NAMES): _value(chance, depth + 1) for _ in range(chance.randint(0, 2))}


def put_through(chance: Random, count: int = 12) -> Seen:
    """One template, trajectories one after the other, each twice."""
    template = source(chance)
    warm, reference = unseen(template), unseen(template)
    some = conversations(chance, count) * 2
    chance.shuffle(some)
    wanted = by_the_long_way(some, OPTIONS, reference)
    found = [told(preprocess_batch([one], OPTIONS, warm)[0]) for one in some]
    path = trajectory_path_of(OPTIONS, warm)
    if path is not None and path.family.compiled is None and compiled(template) is not None:
        differences = [Difference(template, some[0], "a recorded render that differs from the template's", None)]
        return Seen(template, len(some), path.hits, differences)
    each = zip(some, found, wanted, strict=True)
    differences = [Difference(template, *one) for one in each if one[1] != one[2]]
    return Seen(template, len(some), path.hits if path is not None else 0, differences)


if __name__ == "__main__":
    sys.exit(main(put_through, __doc__, "walk"))
