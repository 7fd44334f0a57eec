"""Whatever the body of a loop reads tells its recordings apart: else a later conversation gets another one's."""

import logging
from collections.abc import Sequence
from random import Random

import pytest

from tests.support.long_way import by_the_long_way, told
from tests.support.micro_trajectories import OPTIONS
from tests.support.warm_and_fresh import unseen
from tests.unit.masks.trajectory.test_walked_renders import differences
from turnloom.masks.domain.conversation import JSON, Conversation, Message
from turnloom.masks.pipeline import preprocess_batch
from turnloom.masks.trajectory.path import trajectory_path_of

#: The template prints this for each call.
CALL = "{% for c in m.tool_calls %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}"


def chat(*, head: str = "", before: str = "", calls: str = CALL) -> str:
    """A template with something before its loop, before a message's text, and for its calls."""
    return (
        f"{{% set ns = namespace(n=0) %}}{head}{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{before}"
        f"{{{{ m.content }}}}{calls}<|im_end|>\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def called(question: str, **arguments: JSON) -> Conversation:
    """A trajectory with a call of f, whose arguments these are."""
    call: JSON = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    messages: list[Message] = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "one", "tool_calls": [call]},
        {"role": "tool", "content": "r1"},
        {"role": "assistant", "content": "two", "reasoning_content": "q", "tool_calls": [call]},
        {"role": "tool", "content": "r2"},
        {"role": "assistant", "content": "three"},
    ]
    return Conversation(messages)


def offered(question: str, *tools: JSON) -> Conversation:
    """A chat with tools."""
    messages: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": "b"}]
    return Conversation(messages, tools=list(tools))


def compare(source: str, some: Sequence[Conversation], caplog: pytest.LogCaptureFixture) -> int:
    """Let a model see them twice, compare each outcome with the reference's, and return how many were walked."""
    model = unseen(source)
    with caplog.at_level(logging.ERROR):
        for one in [*some, *some]:
            assert [told(preprocess_batch([one], OPTIONS, model)[0])] == by_the_long_way([one], OPTIONS, unseen(source))
    assert not caplog.text  # the judge of recordings found nothing, either
    path = trajectory_path_of(OPTIONS, model)
    assert path is not None
    return path.hits


#: What stands in the head, and the conversations.
TOOLS: dict[str, tuple[str, list[Conversation]]] = {
    "a name that only some conversations give to the tools": (
        "{% if messages[0].content == 'x' %}{% set t = tools %}{% endif %}"
        "{% for u in tools %}{{ u.name }}{{ '!' if t }}{% endfor %}",
        [offered("y", {"name": "A"}), offered("x", {"name": "B"}), offered("x", {"name": "A"})],
    ),
    "another name of the tools, in a loop that is printed by the template": (
        "{% set t = tools %}{% for u in tools %}{{ u.name | title }}{{ t | length if u.k }}{% endfor %}",
        [offered("y", {"name": "a"}), offered("y", {"name": "a", "k": 1})],
    ),
    "an undefined variable with the name of a special token": (
        "{% set bos_token = nosuch %}{% for u in tools %}{{ u.name | title }}{{ bos_token if u.k }}{% endfor %}",
        [offered("y", {"name": "a"}), offered("y", {"name": "a", "k": 1})],
    ),
    "a function under another name": (
        "{% set f = strftime_now %}{% for u in tools %}{{ u.name | title }}{{ (f is defined) if u.k }}{% endfor %}",
        [offered("y", {"name": "a"}), offered("y", {"name": "a", "k": 1})],
    ),
    "Jinja's own functions": (
        "{% for u in tools %}{% set one = namespace(n=u.name | title) %}{{ one.n }}{{ dict(a='b').a }}"
        "{{ raise_exception('k') if u.k == 2 }}{% endfor %}",
        [offered("y", {"name": "a"}), offered("y", {"name": "b", "k": 1})],
    ),
    "the name of the tools for something else": (
        "{% set t = tools %}{% set tools = 5 %}{% for u in t %}{{ u.name | title }}{{ tools if u.k }}{% endfor %}",
        [offered("y", {"name": "a"}), offered("y", {"name": "a", "k": 1})],
    ),
    "all tools for each of them, whose texts count as texts": (
        "{% for u in tools %}{{ u.name }}{{ tools | tojson }}{% endfor %}",
        [offered("y", {"name": ""}), offered("y", {"name": "a<|im_end|>b"})],
    ),
}


@pytest.mark.parametrize("case", TOOLS)
def test_a_loop_over_tools_prints_what_its_variables_are_now(case: str, caplog: pytest.LogCaptureFixture) -> None:
    head, some = TOOLS[case]
    assert compare(chat(head=f"<|im_start|>system\n{head}<|im_end|>\n"), some, caplog) > 0


#: What stands before a message's text, and in each of its calls.
READS = {
    "how many messages come behind it": ("{{ loop.revindex }}", ""),
    "the same by the number of messages": ("{{ messages | length - loop.index0 }}", ""),
    "the same for its calls": ("{% set r = loop.revindex %}", "{{ r }}"),
    "the same in a namespace": ("{% set ns.n = loop.revindex %}{{ ns.n }}", ""),
    "the same as JSON": ("{{ loop.revindex | tojson }}", ""),
    "the number of messages, for each call": ("", "{% if messages | length > 4 %}!{% endif %}"),
    "the last message, for each call": ("", "{% if messages[-1].role == 'tool' %}!{% endif %}"),
    "the message behind it, for each call": (
        "{% set x = loop.nextitem %}",
        "{% if x and x.content.startswith('r') %}!{% endif %}",
    ),
    "all messages, for each call": ("", "{% for o in messages %}{{ o.role if loop.last }}{% endfor %}"),
    "the calls of the message at hand, for all messages": (
        "{% for o in messages %}{% for c in m.tool_calls or [] %}?{% endfor %}{% endfor %}",
        "",
    ),
    "the same from the last message to the first": (
        "{% for o in messages[::-1] %}{% for c in m.tool_calls or [] %}?{% endfor %}{% endfor %}",
        "",
    ),
    "a question about the message at hand, for all messages": (
        "{% for o in messages[1:] %}{{ '?' if m.tool_calls }}{% endfor %}",
        "",
    ),
    "all messages, for each argument": (
        "",
        "{% for k, v in c.function.arguments | items %}{{ k }}{% if messages[-1].role == 'tool' %}!{% endif %}"
        "{% endfor %}",
    ),
}


@pytest.mark.parametrize("case", READS)
def test_what_a_body_reads_of_later_messages_is_read_in_every_render(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, inside = READS[case]
    source = chat(before=before, calls=CALL.replace("]", f"{inside}]"))
    some = [called("x", a=1), called("y", a=1)]
    for chance in (None, Random(1), Random(2)):
        assert differences(source, some, chance)[1] == []
    assert compare(source, some, caplog) > 0


#: For each argument.
ARGUMENT = (
    "{% for c in m.tool_calls %}[{{ c.function.name }}{% for k, v in c.function.arguments | items %} {{ k }}="
    "{{ v | tojson }};SHOWN{% endfor %}]{% endfor %}"
)
#: What stands in the head, and before the calls, and what is printed for each argument.
HIDDEN = {
    "a macro's name for something else": (
        "{% macro f() %}{% endmacro %}{% set z = messages[0].content == 'x' %}",
        "{% set f = z %}",
        "{{ '!' if f }}",
    ),
    "what a macro reads, behind an item of its name": (
        "{% macro f() %}{{ '!' if k }}{% endmacro %}{% set k = messages[0].content == 'x' %}",
        "",
        "{{ f() }}",
    ),
    "what a macro reads, behind a variable of its name": (
        "{% macro f() %}{{ '!' if z }}{% endmacro %}{% set z = messages[0].content == 'x' %}",
        "{% set z = 1 %}",
        "{{ f() }}",
    ),
    "what a macro reads in a branch, behind a variable of its name": (
        "{% macro f() %}{% if nosuch %}{% set z = 1 %}{% endif %}{{ '!' if z }}{% endmacro %}"
        "{% set z = messages[0].content == 'x' %}",
        "{% set z = 1 %}",
        "{{ f() }}",
    ),
    "more arguments of a macro": (
        "{% macro f(m) %}{% for c in m.tool_calls %}{% for k, v in c.function.arguments | items %}"
        "{{ '!' if varargs }}{% endfor %}{% endfor %}{% endmacro %}",
        "{{ f(m, 1) if m.content == 'one' else f(m) }}",
        "",
    ),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_variables_of_one_name_are_told_apart(case: str, caplog: pytest.LogCaptureFixture) -> None:
    head, before, inside = HIDDEN[case]
    source = chat(head=head, before=before, calls=ARGUMENT.replace("SHOWN", inside))
    some = [called("x"), called("x", a=1), called("o"), called("o", a=1)]
    assert differences(source, [*some, *reversed(some)])[1] == []
    compare(source, some, caplog)


def test_macros_that_hide_nothing_are_walked(caplog: pytest.LogCaptureFixture) -> None:
    head = (
        "{% macro f(x) %}{% if x is mapping %}{% set z = namespace(n=0) %}{% for k, v in x | dictsort %}{{ z.n }}"
        " {{ k }}={{ f(v) }}{% endfor %}{% else %}{{ x }};{% endif %}{% endmacro %}"
        "{% set z = messages[0].content == 'x' %}"
    )
    source = chat(head=head, calls=ARGUMENT.replace("{{ v | tojson }};SHOWN", "{{ f(v) }}"))
    some = [called("x", a={"b": 1}), called("y", a={"b": 1})]
    assert compare(source, some, caplog) == 4


def test_a_loop_with_a_test_has_its_own_facts_behind_a_loop_inside_it(caplog: pytest.LogCaptureFixture) -> None:
    calls = (
        "{% for c in m.tool_calls if c.function %}[{{ c.function.name }}{% for k, v in c.function.arguments | items %}"
        " {{ k }}={{ v | tojson }};{% endfor %}]{{ 'last' if loop.last }}{{ loop.index }}{% endfor %}"
    )
    some = [called("x", a=1), called("y", a=1)]
    assert differences(chat(calls=calls), some)[1] == []
    assert compare(chat(calls=calls), some, caplog) == 4


def test_a_loop_that_is_left_behind_a_loop_inside_is_left_to_the_template(caplog: pytest.LogCaptureFixture) -> None:
    calls = CALL.replace("{% endfor %}", "{% else %}{% if m.role == 'tool' %}!{% continue %}{% endif %}{% endfor %}")
    some = [called("x", a=1), called("y", a=1)]
    assert differences(chat(calls=calls), some)[1] == []
    compare(chat(calls=calls), some, caplog)
