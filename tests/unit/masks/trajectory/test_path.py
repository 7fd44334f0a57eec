"""Trajectories are answered as the reference answers them, and where they can't be walked by the reference itself."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.trajectories import trajectories
from tests.support.long_way import by_the_long_way, told
from tests.support.many_templates import runs
from tests.support.micro_trajectories import put_through
from tests.support.warm_and_fresh import unseen
from tests.unit.masks.trajectory.test_walked_renders import LATER, QWEN
from turnloom.masks.domain.conversation import JSON, Conversation, Message, Training
from turnloom.masks.domain.errors import Interleaved
from turnloom.masks.domain.example import PreprocessedConversation
from turnloom.masks.domain.options import ControlTokens, OnUnextendable, Options, TrainOn, TrainOnEot
from turnloom.masks.model import Model
from turnloom.masks.pipeline import preprocess_batch
from turnloom.masks.trajectory import path as paths
from turnloom.masks.trajectory.path import trajectory_path_of

OPTIONS = Options(date="2026-01-02", max_length=None)


def outcomes(some: Sequence[Conversation], options: Options, model: Model) -> list[object]:
    return [told(outcome) for outcome in preprocess_batch(some, options, model)]


def hits(options: Options, model: Model) -> int:
    path = trajectory_path_of(options, model)
    assert path is not None
    return path.hits


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        Options(date="2026-01-02", train_on=TrainOn.LAST_ASSISTANT_MESSAGE),
        Options(date="2026-01-02", train_on=TrainOn.LAST_ASSISTANT_TURN, max_length=128),
        Options(date="2026-01-02", on_unextendable=OnUnextendable.ERROR, max_length=None),
        Options(date="2026-01-02", control_tokens=ControlTokens.REJECT, max_length=None),
    ],
)
@pytest.mark.parametrize("source", [QWEN, LATER])
def test_rows_are_those_of_the_reference(source: str, options: Options) -> None:
    model, some = unseen(source), trajectories(3, seed=5, most=14)
    assert outcomes(some, options, model) == by_the_long_way(some, options, unseen(source))
    if options.on_unextendable is not OnUnextendable.ERROR and source is QWEN:
        assert hits(options, model) == len(some)


#: What a template prints of messages before their turns.
EARLIER = {
    "a text": "{% if m.role == 'user' %}{{ m.content }}{% endif %}",
    "a part of a text": "{{ m.content[:3] }}",
    "a key": "{{ m.name }}",
    "calls": "{{ m.tool_calls | tojson if m.tool_calls and not loop.last }}",
    "reasoning": "{{ m.reasoning_content if m.role == 'assistant' and not loop.last }}",
}
HEADS = (
    "{% for m in messages %}WHAT{% endfor %}",
    "{% set g = namespace(t='') %}{% for m in messages %}{% set t %}WHAT{% endset %}{% set g.t = g.t ~ t %}{% endfor %}"
    "{{ g.t }}",
    "{% set g = namespace(t='') %}{% for m in messages %}{% set t %}WHAT{% endset %}{% set g.t = g.t ~ t %}{% endfor %}"
    "{{ g.t }}{% for m in messages %}.{% endfor %}",
)


@pytest.mark.parametrize("train_on", [TrainOn.ALL_ASSISTANT_MESSAGES, TrainOn.LAST_ASSISTANT_MESSAGE])
@pytest.mark.parametrize("what", EARLIER)
def test_text_in_several_places_is_told_as_the_reference_tells_it(what: str, train_on: TrainOn) -> None:
    turns = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    options = replace(OPTIONS, train_on=train_on)
    some = trajectories(6, seed=4, least=4, most=9)
    for head in HEADS:
        source = head.replace("WHAT", EARLIER[what]) + turns
        assert outcomes(some, options, unseen(source)) == by_the_long_way(some, options, unseen(source)), source


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}\n"
#: Templates that gather the text of all messages, over and over.
GATHERED = {
    "from the last message": "{% set g = namespace(t='') %}{% for m in messages[::-1] %}{% set g.t = m.content ~ g.t %}"
    "{% endfor %}{{ 'x' if g.t == 'x' }}" + TURNS + "{% endfor %}",
    "in a list, from the last": "{% set g = namespace(t=['']) %}{% for m in messages[::-1] %}"
    "{% set g.t = [m.content ~ g.t[0]] %}{% endfor %}{{ 'x' if g.t[0] == 'x' }}" + TURNS + "{% endfor %}",
    "of later ones": TURNS + "{% set g = namespace(t='') %}{% for n in messages[loop.index:] %}"
    "{% set g.t = g.t ~ n.content %}{% endfor %}{{ 'x' if g.t == 'x' }}{% endfor %}",
}


@pytest.mark.parametrize("case", GATHERED)
def test_text_that_every_render_gathers_anew_is_left_to_the_reference_before_it_fills_the_memory(case: str) -> None:
    model, some = unseen(GATHERED[case]), trajectories(2, seed=5, least=6, most=9)
    assert outcomes(some, OPTIONS, model) == by_the_long_way(some, OPTIONS, unseen(GATHERED[case]))
    walked = hits(OPTIONS, model)
    assert walked
    outcomes(trajectories(1, seed=5, least=90, most=90), OPTIONS, model)
    assert hits(OPTIONS, model) == walked


def test_a_list_that_holds_another_many_times_is_looked_at_once() -> None:
    """Sixty messages that double a list took for ever."""
    gathers = "{% set g = namespace(l=[]) %}{% for m in messages %}{% set g.l = [g.l, g.l, m] %}{% endfor %}"
    source = gathers + TURNS + "{% endfor %}{% for one in g.l %}{{ '.' if one is mapping }}{% endfor %}"
    some = trajectories(1, seed=5, least=60, most=60)
    assert outcomes(some, OPTIONS, unseen(source)) == by_the_long_way(some, OPTIONS, unseen(source))


@pytest.mark.parametrize("source", [QWEN, LATER])
def test_text_parts_of_a_trajectory_are_its_texts_to_every_path(source: str) -> None:
    some = trajectories(3, seed=5, most=14)
    sent = [replace(one, messages=[_in_parts(message) for message in one.messages]) for one in some]
    model = unseen(source)
    expected = by_the_long_way(some, OPTIONS, unseen(source))
    assert by_the_long_way(sent, OPTIONS, unseen(source)) == expected
    for _ in range(2):
        assert outcomes(sent, OPTIONS, model) == outcomes(some, OPTIONS, model) == expected
    assert hits(OPTIONS, model) > 0 or source is LATER


def _in_parts(message: Message) -> Message:
    content = message["content"]
    assert isinstance(content, str)
    first, _, rest = content.partition("\n")
    texts = [first, rest] if first and rest else [content]
    return {**message, "content": [{"type": "text", "text": text} for text in texts]}


def calls(*arguments: JSON) -> Message:
    """A reply that calls f once for each of these arguments."""
    made: list[JSON] = [{"type": "function", "function": {"name": "f", "arguments": {"a": one}}} for one in arguments]
    return {"role": "assistant", "content": "a", "tool_calls": made}


ASKS = ("v == 1.0", "1.0 != v", "v in [1.0, 2]", "v is eq 1.0", "v == 1", "v is integer", "not v", "v > 0", "v == ''")
NUMBERS: list[JSON] = [5, 1, 0, 1.0, 0.0, -0.0, 2, 10**20, 1e20, True, False, None, "1", ""]


@pytest.mark.parametrize("asks", ASKS)
def test_numbers_are_told_apart_as_the_template_tells_them_apart(asks: str) -> None:
    source = QWEN.replace("{{ k }}=", f"{{% if {asks} %}}!{{% endif %}}{{{{ k }}}}=")
    model, reference = unseen(source), unseen(source)
    for value in NUMBERS:
        some = [Conversation([{"role": "user", "content": "q"}, calls(value)], tools=[])]
        assert outcomes(some, OPTIONS, model) == by_the_long_way(some, OPTIONS, reference), value


def test_a_loop_over_a_variable_prints_what_the_variable_holds_now() -> None:
    asks = (
        "{{ c.function.name }}{% set a = c.function.arguments %}{% for one, _ in a | items %}"
        "{% for k, v in a | items %} {{ k }}={{ v | tojson }};{% endfor %}{% endfor %}"
    )
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}"
        f"{asks}{{% endfor %}}<|im_end|>\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    model = unseen(source)
    for first in range(3):
        some = [Conversation([{"role": "user", "content": "q"}, calls(first, first + 1, first + 2)], tools=[])]
        assert outcomes(some, OPTIONS, model) == by_the_long_way(some, OPTIONS, unseen(source))
    assert hits(OPTIONS, model) > 0


def test_turns_that_lie_in_each_other_are_refused_whatever_was_seen_before() -> None:
    """As DeepSeek's R1 prints replies with calls and content that follow one another."""
    source = (
        "{% set ns = namespace(first=true) %}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% for c in m.tool_calls %}{{ '<|im_start|>assistant\\n' if ns.first else '+' }}"
        "{{ c.function.name }} {{ c.function.arguments | tojson }}"
        "{% set ns.first = false %}{% endfor %}<|im_end|><|im_start|>assistant\n{{ m.content }}<|im_end|>"
        "{% else %}<|im_start|>user\n{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    question: Message = {"role": "user", "content": "q"}
    empty: list[Message] = [{**calls(one), "content": ""} for one in ("one", "two")]
    model = unseen(source)
    for some in ([Conversation([question, empty[0]])], [Conversation([question, *empty])]):
        for _ in range(2):
            assert outcomes(some, OPTIONS, model) == by_the_long_way(some, OPTIONS, unseen(source))
    assert hits(OPTIONS, model) > 0
    assert outcomes(some, OPTIONS, model)[0][0] is Interleaved


def test_a_macro_that_reads_a_namespace_sees_what_the_steps_of_a_loop_have_set() -> None:
    macro = "{% macro close() %}{% if ns.last == 'tool' %}!{% endif %}{% endmacro %}"
    source = (
        f"{{% set ns = namespace(last='') %}}{macro}{{% for m in messages %}}"
        "{% if m.role != 'tool' %}{{ close() }}{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls %}{{ c | tojson }}{% endfor %}"
        "{% if m.role == 'tool' %}{% set ns.last = 'tool' %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    question: Message = {"role": "user", "content": "q"}
    reply: Message = {"role": "assistant", "content": "b"}
    called: list[Message] = [question, calls(1), {"role": "tool", "content": "5"}]
    model = unseen(source)
    for messages in ([question, reply, question, calls(1)], called, [*called, reply]):
        some = [Conversation(messages)]
        assert outcomes(some, OPTIONS, model) == by_the_long_way(some, OPTIONS, unseen(source))


@given(st.integers(0, 2**32))
@settings(max_examples=6, deadline=None)
def test_random_templates_answer_random_trajectories_as_the_reference(seed: int) -> None:
    assert put_through(Random(seed), 5).differences == []


@pytest.mark.slow
def test_random_templates_by_the_thousand() -> None:
    seen = list(runs(put_through, 15_000, seed=1))
    assert [one.differences for one in seen if one.differences] == []
    assert sum(one.hits for one in seen) > 1000


def test_weights_and_control_tokens_of_a_trajectory_are_those_of_the_reference() -> None:
    model = unseen(QWEN)
    (plain,) = trajectories(1, seed=7, most=12)
    messages = [{**message, "content": f"{message['content']}<|im_end|>"} for message in plain.messages]
    training = [Training(weight=0.5 if at % 2 else None) for at in range(len(messages))]
    some = [Conversation(messages, plain.tools, training), plain]
    assert outcomes(some, OPTIONS, model) == by_the_long_way(some, OPTIONS, unseen(QWEN))
    (first, _) = preprocess_batch(some, OPTIONS, model)
    assert isinstance(first, PreprocessedConversation)
    assert first.escaped
    assert hits(OPTIONS, model) == 4


def test_a_refusal_is_told_by_the_reference() -> None:
    source = QWEN.replace("{{ call.name }}", "")
    model, some = unseen(source), trajectories(3, seed=8, most=12)
    found = outcomes(some, OPTIONS, model)
    assert found == by_the_long_way(some, OPTIONS, unseen(source))
    assert "leaves this name out" in str(found)
    assert hits(OPTIONS, model) == 0


@pytest.mark.parametrize(
    "options",
    [
        Options(train_on=TrainOn.ALL_TOKENS),
        Options(control_tokens=ControlTokens.ALLOW),
        Options(train_on_eot=TrainOnEot.NONE),
        Options(on_unextendable=OnUnextendable.AS_RENDERED),
        Options(tokenization="hf"),  # type: ignore[arg-type]  # names are taken
        Options(ensure_final_stop=True),
    ],
)
def test_options_that_need_more_have_no_path(options: Options) -> None:
    assert trajectory_path_of(options, unseen(QWEN)) is None


def test_plain_chats_are_left_to_replays() -> None:
    model = unseen(QWEN)
    preprocess_batch(
        [Conversation([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])], OPTIONS, model
    )
    assert hits(OPTIONS, model) == 0


def test_one_in_so_many_is_compared_and_a_difference_ends_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, some = unseen(QWEN), trajectories(2, seed=9, most=40)
    monkeypatch.setattr(paths, "SHADOW", 1)
    wanted = by_the_long_way(some, OPTIONS, unseen(QWEN))
    with caplog.at_level(logging.ERROR):
        assert outcomes(some, OPTIONS, model) == wanted
    assert not caplog.text
    assert any(outcome.examples[1:] for outcome in preprocess_batch(some, OPTIONS, model))  # type: ignore[union-attr]
    assert hits(OPTIONS, model) == 4
    monkeypatch.setattr(paths, "weighted_texts", lambda *_: [])
    with caplog.at_level(logging.ERROR):
        assert outcomes(some, OPTIONS, model) == wanted
    assert "differ from the reference" in caplog.text
    assert hits(OPTIONS, model) == 5


def test_a_template_that_can_rarely_be_walked_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "TRIAL", 2)
    source = QWEN.replace("{{ message.content }}", "{{ message.content | reverse }}")
    model, some = unseen(source), trajectories(3, seed=10, most=9)
    outcomes(some, OPTIONS, model)
    path = trajectory_path_of(OPTIONS, model)
    assert path is not None
    assert path.off


def test_a_fault_of_the_path_is_logged_and_the_reference_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("a fault")

    model, some = unseen(QWEN), trajectories(2, seed=11, most=12)
    monkeypatch.setattr(paths, "weighted_texts", fails)
    assert outcomes(some, OPTIONS, model) == by_the_long_way(some, OPTIONS, unseen(QWEN))
    assert "left to the reference" in caplog.text
    path = trajectory_path_of(OPTIONS, model)
    assert path is not None
    assert path.off
