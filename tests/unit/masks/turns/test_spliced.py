"""Turns that no single render shows as they were sampled: each stands after the prompt that led to it."""

import datetime
import os
from itertools import accumulate, pairwise
from pathlib import Path

import pytest

from tests.support import chat_templates as templates
from tests.support.small_tokenizers import families
from turnloom.masks.domain import errors
from turnloom.masks.domain.conversation import JSON, Conversation, Message
from turnloom.masks.domain.options import OnUnextendable, Options
from turnloom.masks.model import Model, build_model
from turnloom.masks.pipeline import preprocess
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.template.render import Settings, render_plain
from turnloom.masks.turns.views import render_views

SHARED = Path(os.environ.get("TURNLOOM_TEMPLATES", Path(__file__).parents[5] / "shared" / "templates"))
OPTIONS = Options(date="2026-01-02", max_length=None)
#: Drops the reasoning of tool steps once a final answer follows.
DROPPING = (
    "{%- set final = messages[-1].role == 'assistant' and not messages[-1].tool_calls %}"
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.reasoning_content and not (final and m.tool_calls) %}"
    "{{- '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
    "{{- m.content }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: Prints the system prompt with the last message if that is the user's, as Mistral's do; no generation prompt.
SYSTEM_LAST = (
    "{{ bos_token }}{%- set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{%- for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (system + '\n' if system and loop.last else '') + m.content + '[/INST]' }}"
    "{%- elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)

#: Shows the reasoning of the last assistant message only, so a prompt shows what the next reply's render hides.
SHIFTING = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.index0 == ns.last and m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def call(city: str) -> JSON:
    return {"id": "call00001", "type": "function", "function": {"name": "look", "arguments": {"city": city}}}


AGENT: list[Message] = [
    {"role": "user", "content": "Weather in Oslo?"},
    {"role": "assistant", "content": "", "reasoning_content": "I must look.", "tool_calls": [call("Oslo")]},
    {"role": "tool", "name": "look", "tool_call_id": "call00001", "content": "5"},
    {"role": "assistant", "content": "", "reasoning_content": "Once more.", "tool_calls": [call("Rome")]},
    {"role": "tool", "name": "look", "tool_call_id": "call00001", "content": "9"},
    {"role": "assistant", "content": "It is 5.", "reasoning_content": "Five degrees."},
]
SYSTEM: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hi there."},
    {"role": "user", "content": "More?"},
    {"role": "assistant", "content": "No."},
]
SHIFTED: list[Message] = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello.", "reasoning_content": "Hm."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Well."},
]


def model(source: str) -> Model:
    return build_model("small", families()["byte_level"], source, templates.SPECIAL_TOKENS)


def prompt_of(source: str, messages: list[Message], tools: list[JSON] | None = None) -> str:
    settings = Settings(datetime.date(2026, 1, 2), templates.SPECIAL_TOKENS)
    return render_plain(messages, tools, compile_template(source), settings, add_generation_prompt=True)


def trained(source: str, messages: list[Message]) -> list[tuple[float, str, str]]:
    """(weight, text before it, trained text) of every trained stretch, read off ids and weights alone."""
    made, found = model(source), []
    for example in preprocess(Conversation(messages), OPTIONS, made).examples:
        ids = example.token_ids.tolist()
        ends = list(accumulate((length for length, _ in example.weight_runs), initial=1))
        spans = [
            (weight, start, end)
            for (_, weight), (start, end) in zip(example.weight_runs, pairwise(ends), strict=True)
            if weight
        ]
        prompt = made.vocabulary.decode(ids[: spans[0][1]]).decode()
        assert ids[: spans[0][1]] == made.vocabulary.stock.encode(prompt, add_special_tokens=False).ids
        found += [
            (weight, made.vocabulary.decode(ids[:start]).decode(), made.vocabulary.decode(ids[start:end]).decode())
            for weight, start, end in spans
        ]
    return found


@pytest.mark.parametrize(
    ("source", "messages", "replies"),
    [
        (
            DROPPING,
            AGENT,
            [
                '<think>I must look.</think>{"name": "look", "arguments": {"city": "Oslo"}}<|im_end|>',
                '<think>Once more.</think>{"name": "look", "arguments": {"city": "Rome"}}<|im_end|>',
                "<think>Five degrees.</think>It is 5.<|im_end|>",
            ],
        ),
        (SYSTEM_LAST, SYSTEM, [" Hi there.</s>", " No.</s>"]),
        (SHIFTING, SHIFTED, ["<think>Hm.</think>Hello.<|im_end|>", "Well.<|im_end|>"]),
    ],
    ids=["reasoning of tool steps", "system prompt", "reasoning of the last reply"],
)
def test_ids_and_weights_are_those_of_the_prompt_and_what_follows_it(
    source: str, messages: list[Message], replies: list[str]
) -> None:
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    prompts = [prompt_of(source, messages[:index]) for index in turns]
    assert trained(source, messages) == [(1.0, prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]


def test_turns_whose_prompts_extend_share_an_example() -> None:
    views = render_views(Conversation(AGENT), OPTIONS, model(DROPPING).chat_format)
    assert [sorted(view.trained) for view in views] == [[1, 3, 5]]
    apart = render_views(Conversation(SYSTEM), OPTIONS, model(SYSTEM_LAST).chat_format)
    assert [sorted(view.trained) for view in apart] == [[2], [4]]
    with pytest.raises(errors.HistoryDropped, match="needs 2 examples"):
        preprocess(Conversation(SYSTEM), Options(max_examples_per_conversation=1), model(SYSTEM_LAST))


def test_only_the_last_turn_is_spliced_where_only_that_is_asked_for() -> None:
    options = Options(date="2026-01-02", on_unextendable=OnUnextendable.LAST)
    (view,) = render_views(Conversation(AGENT), options, model(DROPPING).chat_format)
    (span,) = view.message_spans
    assert view.rendered.text[: span.start] == prompt_of(DROPPING, AGENT[:5])


EMPTY_BLOCKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "<think>{{ m.reasoning_content if enable_thinking else '' }}</think>{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_an_empty_block_in_the_place_of_reasoning_is_refused_with_the_way_out() -> None:
    chat: list[Message] = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Yo.", "reasoning_content": "Hm."},
    ]
    with pytest.raises(errors.ContentNotCovered, match="empty block") as refusal:
        preprocess(Conversation(chat), OPTIONS, model(EMPTY_BLOCKS))
    assert refusal.value.message_index == 1
    assert refusal.value.message.endswith('with chat_template_kwargs {"enable_thinking": true} the template renders it')
    thinking = Options(max_length=None, chat_template_kwargs={"enable_thinking": True})
    assert len(preprocess(Conversation(chat), thinking, model(EMPTY_BLOCKS)).examples) == 1
    bare: list[Message] = [chat[0], {"role": "assistant", "content": "Yo."}]
    assert len(preprocess(Conversation(bare), OPTIONS, model(EMPTY_BLOCKS)).examples) == 1


def test_an_empty_reply_is_a_turn_as_it_is_rendered() -> None:
    messages: list[Message] = [
        {"role": "user", "content": "Say nothing."},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Well."},
    ]
    options = Options(date="2026-01-02", on_unextendable=OnUnextendable.AS_RENDERED)
    (view,) = render_views(Conversation(messages), options, model(templates.THINKING).chat_format)
    assert [view.rendered.text[span.start : span.end] for span in view.message_spans] == [
        "<|im_end|>",
        "<think>\n\n</think>\n\nWell.<|im_end|>",
    ]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the public templates")
@pytest.mark.parametrize(
    "name", ["trl__gptoss", "hfjs__LiquidAI_LFM2.5-VL-450M", "vllmex__tool_chat_template_mistral_parallel"]
)
def test_public_templates_that_drop_reasoning_of_tool_steps(name: str) -> None:
    source = (SHARED / f"{name}.jinja").read_text(encoding="utf-8")
    for view in render_views(Conversation(AGENT), OPTIONS, model(source).chat_format):
        for span in view.message_spans:
            assert view.rendered.text[: span.start] == prompt_of(source, AGENT[: span.message_index])
