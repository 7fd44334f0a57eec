"""Templates of clients: the same views as in process, and hostile ones end in a typed error while others are served."""

import time
from collections.abc import Iterator

import pytest

from tests.support import chat_templates as templates
from turnloom.masks.domain import errors
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.options import GenerationPrefill, Mask, OnUnextendable, Options, TrainOn
from turnloom.masks.sandbox.frames import error_data, error_from, options_data, options_from
from turnloom.masks.sandbox.pool import Limits, Sandbox
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.turns.views import ChatFormat, render_views

OPTIONS = Options(date="2026-01-02")
CHAT = Conversation(
    [
        {"role": "user", "content": "Hi \ud800 🙂"},
        {"role": "assistant", "content": "Hello.", "reasoning_content": "Hm."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Well."},
    ],
    tools=[{"name": "f", "parameters": {"z": 1, "a": None}}],
)
LIMITS = Limits(seconds=2.0, memory_bytes=512 << 20, workers=2)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(LIMITS)
    yield made
    made.close()


def in_sandbox(sandbox: Sandbox, source: str, options: Options = OPTIONS) -> object:
    return sandbox.render_views(source, CHAT, options, templates.SPECIAL_TOKENS, templates.CONTROL_TOKENS)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (templates.THINKING, OPTIONS),
        (templates.TWO_CLOSINGS, Options(date="2026-01-02", on_unextendable=OnUnextendable.LAST)),
        ("{{ tools | tojson }}" + templates.GENERATION["macro"], Options(date="2026-01-02", mask=Mask.TEMPLATE)),
    ],
)
def test_a_worker_gives_what_the_process_itself_gives(sandbox: Sandbox, source: str, options: Options) -> None:
    chat_format = ChatFormat(compile_template(source), templates.SPECIAL_TOKENS, templates.CONTROL_TOKENS)
    expected = render_views(CHAT, options, chat_format)
    assert in_sandbox(sandbox, source, options) == expected
    assert in_sandbox(sandbox, source, options) == expected


def test_refusals_come_back_with_class_place_and_words(sandbox: Sandbox) -> None:
    with pytest.raises(errors.ContentNotCovered, match=r"messages\[1\].content: the template leaves") as refusal:
        in_sandbox(sandbox, "nothing")
    assert (refusal.value.message_index, refusal.value.field) == (1, "content")
    with pytest.raises(errors.TemplateError, match="line 1 of the chat template: "):
        in_sandbox(sandbox, "{% for %}")


HOSTILE = {
    "endless loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "a gigabyte": "{{ 'x' * 1000000000 }}",
    "doubling": "{% set ns = namespace(a='x') %}{% for i in range(99) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    "long output": "{% for i in range(9999) %}{{ 'x' * 99999 }}{% endfor %}",
    "long number": "{{ (9 ** 9) ** 99999999 }}",
    "huge range": "{% for i in range(10**9) %}{% endfor %}",
    "deep recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "deep nesting": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "class attribute": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "format attribute": "{{ '{0.__class__}'.format(messages) }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "attr filter": "{{ messages | attr('__class__') | attr('__base__') }}",
    "changing the messages": "{{ messages.append(1) }}",
    "widths": "{{ '%1000000000d' % 1 }}",
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_template_gets_a_typed_error_within_five_seconds(sandbox: Sandbox, name: str) -> None:
    assert in_sandbox(sandbox, templates.CHATML)  # its worker has started
    begun = time.monotonic()
    with pytest.raises(errors.PreprocessError):
        in_sandbox(sandbox, HOSTILE[name])
    assert time.monotonic() - begun < 5
    assert in_sandbox(sandbox, templates.CHATML)


def test_an_endless_template_is_told_its_limit(sandbox: Sandbox) -> None:
    with pytest.raises(errors.TemplateLimit, match=r"the chat template took longer than 2 s"):
        in_sandbox(sandbox, HOSTILE["endless loop"])


def test_a_closed_sandbox_leaves_no_process_behind() -> None:
    made = Sandbox(LIMITS)
    in_sandbox(made, templates.CHATML)
    processes = [worker._process for worker in made._idle]
    made.close()
    assert processes
    assert all(process.returncode is not None for process in processes)


def test_options_pass_through_frames() -> None:
    options = Options(
        train_on=TrainOn.ALL_TOKENS,
        on_unextendable=OnUnextendable.LAST,
        max_examples_per_conversation=3,
        generation_prefill=GenerationPrefill.LONGEST,
        mask=Mask.TEMPLATE,
        chat_template_kwargs={"enable_thinking": False},
        date="2026-01-02",
    )
    assert options_from(options_data(options)) == options


def test_every_error_class_passes_through_frames() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    tree = [kind for kind in classes if issubclass(kind, errors.PreprocessError)]
    assert len(tree) > 10
    for kind in tree:
        back = error_from(error_data(kind("words", message_index=2, field="content")))
        assert type(back) is kind
        assert back.message == str(back) == "messages[2].content: words"
        assert (back.message_index, back.field) == (2, "content")
    strange = error_from({"class": "os", "sentence": "x", "message_index": None, "field": ""})
    assert type(strange) is errors.PreprocessError
