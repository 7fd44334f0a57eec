"""Replays: equal to renders whatever the texts, or not used. What is not understood is never replayed."""

import datetime
import logging
import operator
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import chat_templates as templates
from turnloom.masks.domain.conversation import Conversation, Message
from turnloom.masks.domain.errors import HistoryDropped, PreprocessError
from turnloom.masks.domain.options import GenerationPrefill, OnUnextendable, Options
from turnloom.masks.domain.rendered_text import Origin, View
from turnloom.masks.replay import cache as store
from turnloom.masks.replay.fast_path import replayed_views, view_replays
from turnloom.masks.replay.recording import Recording
from turnloom.masks.replay.symbols import RefusedError, joined
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.turns.views import ChatFormat

OPTIONS = Options(date="2026-01-02")
NAMES = ("CHATML", "THINKING", "INSTRUCT", "OPEN_ENDED", "TWO_CLOSINGS", "EPILOGUE", "PREFILLED")


def chat_format(source: str) -> ChatFormat:
    return ChatFormat(compile_template(source), templates.SPECIAL_TOKENS, templates.CONTROL_TOKENS)


def chat(*texts: str, **more: str) -> Conversation:
    """User and assistant in turns; the last message has `more`."""
    messages: list[Message] = [
        {"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)
    ]
    return Conversation([*messages[:-1], {**messages[-1], **more}])


def hits(format_: ChatFormat, options: Options = OPTIONS) -> int:
    return view_replays(format_, options).hits


def rendered(source: str, conversation: Conversation, options: Options = OPTIONS) -> list[View] | tuple[type, str]:
    """What a format without replays gives."""
    format_ = chat_format(source)
    view_replays(format_, options).switch_off()
    return outcome(conversation, options, format_)


def outcome(conversation: Conversation, options: Options, format_: ChatFormat) -> list[View] | tuple[type, str]:
    try:
        return replayed_views(conversation, options, format_)
    except PreprocessError as error:
        return type(error), str(error)


def warmed(source: str, *conversations: Conversation, options: Options = OPTIONS) -> ChatFormat:
    """A format that has seen each conversation twice: planned, then recorded."""
    format_ = chat_format(source)
    for conversation in conversations * 2:
        outcome(conversation, options, format_)
    return format_


@pytest.mark.parametrize("name", list(templates.GENERATION))
def test_generation_blocks_keep_their_places(name: str) -> None:
    source = templates.GENERATION[name]
    format_ = warmed(source, chat("Hi.", "Hello.", "And?", ""), chat("Hi.", "Hello."))
    for other in (chat("a", "bc", "def", ""), chat("", "Hello\n"), chat("a", "b")):
        assert outcome(other, OPTIONS, format_) == rendered(source, other)
    assert hits(format_) == 2
    (view,) = replayed_views(chat("a", "bc"), OPTIONS, format_)
    ((start, end),) = view.rendered.generation_blocks
    assert view.rendered.text[start:end] == "bc<|im_end|>"


@pytest.mark.parametrize("name", NAMES)
def test_the_third_conversation_of_a_shape_is_replayed_with_its_own_texts(name: str) -> None:
    source = getattr(templates, name)
    format_ = warmed(source, chat("Hi.", "Hello.", "And?", "Well."))
    other = chat("Что?", "Nothing '\"\\{}%s new.", "{{ x }}", "🙂 K0 v1")
    assert outcome(other, OPTIONS, format_) == rendered(source, other)
    assert hits(format_) == 1


TEXTS = st.lists(
    st.sampled_from(
        [
            "a",
            "Hello.",
            " ",
            "\n",
            "<think>",
            "</think>",
            "<think>\n",
            "\n</think>\n\n",
            "<|im_end|>",
            "</s>",
            "é🙂",
            "K0",
        ]
    ),
    max_size=4,
).map("".join)


def conversation_of(turns: Sequence[tuple[str, str, str | None, bool]]) -> Conversation:
    messages: list[Message] = []
    for question, reply, reasoning, named in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": reply})
        if reasoning is not None:
            messages[-1]["thinking" if named else "reasoning_content"] = reasoning
    return Conversation(messages)


CHATS = st.lists(st.tuples(TEXTS, TEXTS, st.one_of(st.none(), TEXTS), st.booleans()), min_size=1, max_size=2).map(
    conversation_of
)
_WARM: dict[tuple[str, GenerationPrefill], ChatFormat] = {}


@settings(max_examples=60, deadline=None)
@given(chats=st.lists(CHATS, min_size=1, max_size=3), prefill=st.sampled_from(GenerationPrefill))
@pytest.mark.parametrize("name", NAMES)
def test_a_format_with_replays_gives_what_one_without_gives(
    name: str, chats: Sequence[Conversation], prefill: GenerationPrefill
) -> None:
    source, options = getattr(templates, name), Options(date="2026-01-02", generation_prefill=prefill)
    warm = _WARM.setdefault((name, prefill), chat_format(source))
    for conversation in [*chats, *chats, *chats]:
        assert outcome(conversation, options, warm) == rendered(source, conversation, options)


@pytest.mark.parametrize("taken", ["<think>\n", "<think>"])
@pytest.mark.parametrize("reasons", [False, True])
@pytest.mark.parametrize("after", ["", "\n"])
def test_a_reply_that_the_prompt_takes_whole_is_no_pattern_for_one_that_goes_on(
    taken: str, reasons: bool, after: str
) -> None:
    """A later reply begins where the prompt ends, not where its text of the same origin does."""
    shown = "{{ m.reasoning_content }}{{ m.content }}" if reasons else "{{ m.content }}"
    source = templates.PREFILLED.replace("{{ m.content }}", shown + after)
    format_ = chat_format(source)
    for text in (taken, f"{taken}a", f"{taken}\n", f"{taken}a{taken}", taken, "b", f"{taken}\nc"):
        conversation = chat("Hi.", "Hello." if reasons else text, **({"reasoning_content": text} if reasons else {}))
        for _ in range(4):
            assert outcome(conversation, OPTIONS, format_) == rendered(source, conversation), text


ASKING = {
    "equality": "{% if m.content == 'a b' %}!{% endif %}{{ m.content }}",
    "containment": "{% if 'b' in m.content %}!{% endif %}{{ m.content }}",
    "prefix": "{% if m.content.startswith('a') %}!{% endif %}{{ m.content }}",
    "truth of a strip": "{% if m.content.strip('abc. ') %}!{% endif %}{{ m.content }}",
    "parts": "{% for part in m.content.split('b') %}{% if not loop.first %}b{% endif %}{{ part }}{% endfor %}",
    "the last part": "{{ 'b' if 'b' in m.content else '' }}{{ m.content.split('b')[-1] }}",
    "a macro": "{% macro show(x) %}{{ x | trim }}{% endmacro %}{{ show(m.content) }}",
    "a set block": "{% set x %}{{ m.content }}{% endset %}{{ x }}",
    "selected messages": "{{ (messages | selectattr('content', 'equalto', 'a b') | list | length) }}{{ m.content }}",
    "a length": "{% if m.content | length > 2 %}!{% endif %}{{ m.content }}",
    "a join": "{{ ['x', m.content, m.content.split('b')[0]] | join('-') }}",
    "a joined split": "{{ m.content.split('b') | join('B') }}",
    "a replacement": "{{ m.content | replace('b', '!') }}",
    "a strip of joined texts": "{{ ('b ' ~ m.content ~ ' c').strip('bc ') }}!",
    "a split of joined texts": "{{ ('xc b' ~ m.content ~ 'c').split('c b')[-1] }}!",
    "containment in joined texts": "{% if 'b.' in 'a' ~ m.content ~ '.' %}!{% endif %}{{ m.content }}",
}


@pytest.mark.parametrize("name", list(ASKING))
def test_a_text_that_answers_otherwise_is_not_replayed_wrongly(name: str) -> None:
    source = templates.CHATML.replace("{{ m.content }}", ASKING[name])
    first = chat("x", "c.")
    format_ = warmed(source, first)
    for text in ("a b", "b", "a", "c b c b", "c.c", "abc", "d", "c."):
        for _ in range(2):
            assert outcome(chat("x", text), OPTIONS, format_) == rendered(source, chat("x", text))
    assert hits(format_) > 0


UNKNOWN = (
    "{{ m.content | upper }}",
    "{{ m.content[0] }}{{ m.content[1:] }}",
    "{% for c in m.content %}{{ c }}{% endfor %}",
    "{{ m.content }}{{ m.content | int }}",
    "{{ m.content }}{{ m.content | length }}",
    "{{ m.content }}{{ (m.content | length) * 2 }}",
    "{{ m.content }}{{ 'aaa' | random }}",
    "{{ messages | map(attribute='content') | join('', attribute='x') }}",
    "{{ m.content | tojson }}",
    "{{ '%s' % m.content }}",
    "{{ {'a': m.content}.a }}{{ {m.content: 1} | length }}",
    "{{ m.content.upper() }}",
    "{{ m.content | e }}",
    "{{ m.content ~ m.content.format(1) }}",
    "{{ (m.content ~ m.role).title() }}",
)


@pytest.mark.parametrize("expression", UNKNOWN)
def test_what_is_not_modelled_is_never_replayed(expression: str) -> None:
    source = templates.CHATML.replace("{{ m.content }}", expression)
    conversation = chat("Hi.", "Hello.")
    format_ = warmed(source, conversation, conversation)
    assert outcome(conversation, OPTIONS, format_) == rendered(source, conversation)
    assert hits(format_) == 0


def test_a_symbol_can_not_be_read_by_code_that_records_nothing() -> None:
    symbol = Recording().symbol("M", "text", Origin(0, "content"))
    assert isinstance(symbol, str)
    readers: list[Callable[..., object]] = [str, repr, len, hash, int, iter, bytes, "{}".format, sorted]
    readers += [
        operator.itemgetter(0),
        partial(operator.mul, 2),
        partial(operator.lt, "a"),
        partial(operator.mod, "%s"),
    ]
    for read in readers:
        with pytest.raises(RefusedError):
            read(symbol)
    with pytest.raises(TypeError):
        "".join([symbol])  # what C code sees is no str
    assert joined(["a", "b"]) == "ab"


def test_kinds_follow_the_marker_in_the_content_although_the_shape_is_the_same() -> None:
    source = templates.CHATML.replace("{{ m.content }}", "{{ m.content.split('|')[0] }}</think>{{ m.content }}")
    format_ = warmed(source, chat("Hi.", "Hello."))
    marked = chat("Hi.", "a</think>b")
    for _ in range(3):
        assert outcome(marked, OPTIONS, format_) == rendered(source, marked)


def test_a_blank_rest_of_a_text_is_refused_as_without_replays() -> None:
    source = templates.CHATML.replace("{{ m.content }}", "{{ m.content.split('|')[-1] }}")
    format_ = warmed(source, chat("x", "Hello."), chat("x", "a|b"))
    assert outcome(chat("x", "a| "), OPTIONS, format_) == rendered(source, chat("x", "a| "))
    assert "leaves this text out" in str(rendered(source, chat("x", "a| ")))


def test_options_are_checked_on_replays_too() -> None:
    conversation = chat("Hi.", "Hello.", "And?", "Well.")
    format_ = warmed(templates.THINKING, conversation)
    assert hits(format_) == 0
    replayed_views(conversation, OPTIONS, format_)
    assert hits(format_) == 1
    with pytest.raises(HistoryDropped, match="more than max_examples_per_conversation 1"):
        replayed_views(conversation, Options(date="2026-01-02", max_examples_per_conversation=1), format_)
    with pytest.raises(HistoryDropped, match="renders this turn differently"):
        replayed_views(conversation, Options(date="2026-01-02", on_unextendable=OnUnextendable.ERROR), format_)


def test_the_warning_about_the_date_is_kept_apart() -> None:
    source = "{{ strftime_now('%d') }}" + templates.CHATML
    conversation = chat("Hi.", "Hello.")
    format_ = chat_format(source)
    today = Options(date=datetime.datetime.now(datetime.UTC).date().isoformat())
    for options in (today, Options()) * 3:
        (view,) = replayed_views(conversation, options, format_)
        assert bool(view.warnings) == (options.date is None)


def test_conversations_with_tools_or_of_many_messages_are_rendered() -> None:
    tools = Conversation(chat("Hi.", "Hello.").messages, tools=[{"name": "f"}])
    long = chat(*["x"] * (store.LONGEST + 2))
    format_ = warmed(templates.CHATML, tools, long)
    assert outcome(tools, OPTIONS, format_) == rendered(templates.CHATML, tools)
    assert outcome(long, OPTIONS, format_) == rendered(templates.CHATML, long)
    assert hits(format_) == 0


def test_a_replay_that_differs_from_the_render_turns_replays_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    conversation = chat("Hi.", "Hello.")
    format_ = warmed(templates.CHATML, conversation)
    replays = view_replays(format_, OPTIONS)
    (key,) = replays._ways._entries
    wrong = replayed_views(chat("Hi.", "Other."), OPTIONS, chat_format(templates.CHATML))[0]
    replays._ways[key] = ((lambda _: wrong,),)
    monkeypatch.setattr(store, "SHADOW", 1)
    with caplog.at_level(logging.ERROR):
        assert replayed_views(conversation, OPTIONS, format_) == rendered(templates.CHATML, conversation)
    assert "a replay differs from the render" in caplog.text
    monkeypatch.setattr(store, "SHADOW", 512)
    assert replayed_views(conversation, OPTIONS, format_) == rendered(templates.CHATML, conversation)
    assert hits(format_) == 1


def test_a_template_that_can_rarely_be_replayed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "TRIAL", 8)
    source = templates.CHATML.replace("{{ m.content }}", "{{ m.content | upper }}")
    format_ = chat_format(source)
    for _ in range(12):
        replayed_views(chat("HI.", "HELLO."), OPTIONS, format_)
    assert view_replays(format_, OPTIONS).replayed("any", chat("HI.", "HELLO.").messages) is store.Miss.UNKNOWN
    assert view_replays(format_, OPTIONS)._off


def test_ways_of_one_shape_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WAYS", 2)
    asks = "".join(f"{{% if '{letter}' in m.content %}}{letter}{{% endif %}}" for letter in "abcd")
    format_ = chat_format(templates.CHATML.replace("{{ m.content }}", asks + "{{ m.content }}"))
    for text in ("xx", "xa", "xb", "xc", "xd") * 3:
        replayed_views(chat("x", text), OPTIONS, format_)
    (ways,) = view_replays(format_, OPTIONS)._ways._entries.values()
    assert len(ways) == 2
