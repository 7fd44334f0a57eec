"""A unique word in every value of a conversation, over all templates: shown, refused or warned of, never lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.templates import DATE, FOLDER, chat_format
from turnloom.masks.domain.conversation import JSON, Conversation, Message
from turnloom.masks.domain.errors import ContentNotCovered, PreprocessError
from turnloom.masks.domain.options import OnUnextendable, Options
from turnloom.masks.domain.rendered_text import Origin, View
from turnloom.masks.replay.fast_path import replayed_views, view_replays
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.template.normalize import normalized
from turnloom.masks.turns.coverage import Shown, is_as_sent, trained_warnings
from turnloom.masks.turns.leaves import Lost, lost_of
from turnloom.masks.turns.views import ChatFormat, render_views

TEMPLATES = sorted(FOLDER.glob("*.jinja")) if FOLDER.is_dir() else []
OPTIONS = Options(date=DATE)


class Words:
    """Makes words that stand nowhere else, and remembers where each was put."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}
        self._numbers = count(700001)

    def word(self, place: str) -> str:
        word = f"zq{next(self._numbers)}x"
        self.places[word] = place
        return word

    def number(self, place: str) -> int:
        number = next(self._numbers) * 1013
        self.places[str(number)] = place
        return number


def call(words: Words, message: int, at: int) -> JSON:
    place = f"messages[{message}].tool_calls[{at}]"
    arguments = f"{place}.function.arguments"
    return {
        "id": f"call0000{at}",
        "type": "function",
        "function": {
            "name": words.word(f"{place}.function.name"),
            "arguments": {
                words.word(f"{arguments}.KEY"): words.word(f"{arguments}.VALUE"),
                "count": words.number(f"{arguments}.count"),
                "deep": {"list": [words.word(f"{arguments}.deep.list[0]"), True]},
            },
        },
    }


def user(words: Words, index: int) -> Message:
    return {"role": "user", "content": words.word(f"messages[{index}].content")}


def reply(words: Words, index: int, form: str, **more: JSON) -> Message:
    place = f"messages[{index}].content"
    return {"role": "assistant", "content": form.format(*(words.word(place) for _ in range(form.count("{")))), **more}


def conversations() -> Iterator[tuple[str, Words, Conversation]]:
    """Plain and odd forms of what people send, each with its words."""
    forms = ["{0} {1}", "<think>\n{0}\n</think>\n\n{1}", "{0} <think>{1}</think> {2}"]
    forms += ["<think>{0}</think>{1}</think>{2}", "{0}\n\n{1}\n[THINK]{2}[/THINK]{3}", "{0}<think>{1}"]
    for form in forms:
        words = Words()
        yield form, words, Conversation([user(words, 0), reply(words, 1, form), user(words, 2), reply(words, 3, form)])
    for name, number, form in (("one call", 1, ""), ("two calls", 2, ""), ("text and calls", 2, "{0}")):
        words = Words()
        calls = [call(words, 1, at) for at in range(number)]
        yield name, words, Conversation([user(words, 0), reply(words, 1, form, tool_calls=calls)])
    words = Words()
    thought = words.word("messages[1].reasoning_content")
    yield "reasoning", words, Conversation([user(words, 0), reply(words, 1, "{0}", reasoning_content=thought)])


@cache
def formats(path: Path) -> ChatFormat:
    return chat_format(compile_template(path.read_text(encoding="utf-8")))


def laid_out(chat: ChatFormat, conversation: Conversation, options: Options = OPTIONS) -> list[View] | PreprocessError:
    try:
        messages = normalized(conversation.messages, chat.template.names)
        return render_views(Conversation(messages, conversation.tools), options, chat)
    except PreprocessError as error:
        return error


NEEDS_TEMPLATES = pytest.mark.skipif(not TEMPLATES, reason="no folder of public templates (TURNLOOM_TEMPLATES)")


@pytest.mark.slow
@pytest.mark.shared
@NEEDS_TEMPLATES
def test_no_word_of_a_trained_turn_is_lost_in_silence() -> None:
    lost = []
    for path in TEMPLATES:
        for name, words, conversation in conversations():
            views = laid_out(formats(path), conversation)
            if isinstance(views, PreprocessError):
                continue
            warnings = " ".join(warning for view in views for warning in view.warnings)
            spans = {
                span.message_index: view.rendered.text[span.start : span.end]
                for view in views
                for span in view.message_spans
            }
            for word, place in words.places.items():
                index = int(place[len("messages[") : place.index("]")])
                if index in spans and word not in spans[index] and place.partition("[0]")[0] not in warnings:
                    lost.append((path.stem, name, place))
    assert not lost


@pytest.mark.shared
@NEEDS_TEMPLATES
def test_no_word_of_a_prompt_is_lost_in_silence() -> None:
    lost = []
    for path in TEMPLATES:
        for name, words, conversation in conversations():
            views = laid_out(formats(path), conversation, Options(date=DATE, on_unextendable=OnUnextendable.LAST))
            if isinstance(views, PreprocessError):
                continue
            for word, place in words.places.items():
                warnings = " ".join(views[-1].warnings)
                if word in views[-1].rendered.text or place.partition(".")[0] in warnings:
                    continue
                if name in ("{0} {1}", "one call"):  # where there is reasoning, history may drop it
                    lost.append((path.stem, name, place))
    assert not lost


@pytest.mark.shared
@NEEDS_TEMPLATES
def test_arguments_as_text_and_as_object_are_one() -> None:
    different = []
    for path in TEMPLATES:
        words = Words()
        given = call(words, 1, 0)
        assert isinstance(given, dict)
        function = given["function"]
        assert isinstance(function, dict)
        as_text = {**given, "function": {**function, "arguments": json.dumps(function["arguments"])}}
        asked = user(words, 0)
        both = [
            laid_out(formats(path), Conversation([asked, {"role": "assistant", "content": None, "tool_calls": [one]}]))
            for one in (given, as_text)
        ]
        texts = [str(one) if isinstance(one, PreprocessError) else one[0].rendered.text for one in both]
        if texts[0] != texts[1]:
            different.append(path.stem)
    assert not different


@pytest.mark.parametrize(
    ("text", "printed", "lost"),
    [
        ("  a b \n", "a b", Lost.NOTHING),
        ("a\nb", r"a\nb", Lost.ESCAPED),
        ('say "é"', r"say \"\u00e9\"", Lost.ESCAPED),
        ("a & b", "a &amp; b", Lost.ESCAPED),
        ("abc", '"abc"', Lost.NOTHING),
        ("net\n", r'"net\n"', Lost.NOTHING),
        ("\tnet", r'"\tnet"', Lost.NOTHING),
        ("net\n", r'"net\nnet"', Lost.REPEATED),
        ("abc", "abcabc", Lost.REPEATED),
        ("abc", "ababc", Lost.REPEATED),
        ("abc", '{"output": "abc"}', Lost.NOTHING),
        ("<think>r</think>a", "rra", Lost.REPEATED),
        ("<think>r</think>a", "think>r</think>a", Lost.PART),
        ("x<think>axa", "<think>axa", Lost.PART),
        ("<think>r</think>a", "ra", Lost.NOTHING),
        ("<think>r</think>a", "a", Lost.REASONING),
        ("x <think>r</think>a", "ra", Lost.PART),
        ("x <think>r</think>a", "xa", Lost.REASONING),
        ("a  b", "a b", Lost.SPACE),
        ("abc", "ABC", Lost.PART),
    ],
)
def test_what_of_a_text_is_lost(text: str, printed: str, lost: Lost) -> None:
    assert lost_of(text, printed) is lost


CALLS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in (m.tool_calls if m.tool_calls is defined else [])[:1] %}{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"  # noqa: E501


@pytest.mark.parametrize(
    ("calls", "place"),
    [
        ([("f", {"a": "x"}), ("g", {"a": "y"})], "messages[1].tool_calls[1]: the template leaves this call out"),
        ([("f", {"a": "x"}), ("f", {"a": "x"})], "messages[1].tool_calls[1]: the template leaves this call out"),
        ([("f", {"a": 1}), ("f", {"a": 2})], "messages[1].tool_calls[1]: the template leaves this call out"),
    ],
)
def test_a_call_that_is_left_out_is_refused_by_its_place(calls: list[tuple[str, JSON]], place: str) -> None:
    sent = [{"function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    chat = chat_format(compile_template(CALLS))
    error = laid_out(chat, Conversation([{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": sent}]))
    assert isinstance(error, ContentNotCovered)
    assert error.message == place


HEADED = "{% for m in messages %}<|start|>{{ m.role }}\n"
ENDED = "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
CONTENT = "{{ m.content or '' }}"
ALL_CALLS = "{% for c in m.tool_calls or [] %}<tool>{{ c.function | tojson }}</tool>{% endfor %}"


def with_calls(form: str) -> str:
    """A template that prints calls in this form."""
    return CONTENT + "{% for c in m.tool_calls or [] %}<tool>" + form + "</tool>{% endfor %}"


def of_arguments(form: str) -> str:
    """One that prints each argument so."""
    return with_calls("{{ c.function.name }}({% for k, v in c.function.arguments.items() %}" + form + "; {% endfor %})")


NESTED: JSON = {"city": "Oslo", "n": 1, "on": True, "deep": {"a": "b", "list": ["c", 2.5]}}


def said(content: JSON, *calls_: tuple[str, JSON], **more: JSON) -> Message:
    calls_given = [{"id": "c1", "function": {"name": name, "arguments": given}} for name, given in calls_]
    return {"role": "assistant", "content": content, **({"tool_calls": calls_given} if calls_ else {}), **more}


#: As Qwen3-Coder and GLM print arguments: texts bare, containers as JSON, all else as Python writes it.
MIXED = of_arguments(
    "{{ k }}={% if v is string %}{{ v }}{% elif v is mapping or v is sequence %}{{ v | tojson }}{% else %}"
    "{{ v | string }}{% endif %}"
)
TEXTS = ["x", "a b", "x\ny", 'say "x"', "é", "a\\b", "<b>&'c'", "5"]
SCALARS = st.sampled_from([True, False, None, 0, 5, -3, 2.5, 0.0, -0.0, *TEXTS])
ARGUMENTS = st.dictionaries(
    st.sampled_from(["path", "x", "limit", "5", "a-b"]),
    SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from(["x", "deep"]), SCALARS, max_size=2),
    max_size=4,
)


@given(st.lists(ARGUMENTS, min_size=1, max_size=2))
@settings(max_examples=400)
def test_a_value_that_is_printed_now_bare_and_now_as_json_is_not_called_left_out(given_: list[dict[str, JSON]]) -> None:
    chat = chat_format(compile_template(HEADED + MIXED + ENDED))
    reply = said("", *[("f", arguments) for arguments in given_])
    views = laid_out(chat, Conversation([{"role": "user", "content": "q"}, reply]))
    assert not isinstance(views, PreprocessError), views


@pytest.mark.parametrize("value", [True, "x\ny", 'say "x"', 2.5])
def test_a_value_that_is_printed_once_of_twice_is_refused(value: JSON) -> None:
    chat = chat_format(compile_template(HEADED + MIXED.replace("{{ v | tojson }}", "...") + ENDED))
    reply = said("", ("f", {"path": value, "deep": [value]}))
    error = laid_out(chat, Conversation([{"role": "user", "content": "q"}, reply]))
    assert isinstance(error, ContentNotCovered)
    assert error.message == "messages[1].tool_calls[0].function.arguments.deep[0]: the template leaves this value out"


@pytest.mark.parametrize(
    ("printed", "reply_", "sentence"),
    [
        ("{{ m.content | upper }}", said("Hello"), "content: the template leaves out or changes a part"),
        ("{{ m.content[1:] }}", said("Hello"), "content: the template leaves out or changes a part"),
        ("{{ m.content[:-1] }}", said("Hello"), "content: the template leaves out or changes a part"),
        ("{{ m.content.split('\n')[0] }}", said("one\ntwo"), "content: the template leaves out or changes a part"),
        ("{{ m.content | replace('l', '') }}", said("Hello"), "content: the template leaves out or changes a part"),
        (
            "{{ m.content | striptags }}",
            said("<think>r</think>a"),
            "content: the template leaves out or changes a part",
        ),
        ("{{ m.content[1:] }}", said("<think>r</think>a"), "content: the template leaves out or changes a part"),
        (
            "{{ m.content.split('</think>')[-1] }}",
            said("<think>r</think>a"),
            "content: the template leaves out the reas",
        ),
        ("{{ m.content.split('</think>')[-1] }}", said("x <think>r</think>a"), "content: the template leaves out or "),
        (
            "{{ m.content.split('</think>')[0] }}",
            said("<think>r</think>a"),
            "content: the template leaves out or changes",
        ),
        ("{{ m.content | tojson }}", said('say "hi"'), "content: the template writes this text escaped"),
        ("{{ m.content | e }}", said("a < b"), "content: the template writes this text escaped"),
        ("{{ m.content.split() | join(' ') }}", said("a\n\nb"), "content: the template changes white space"),
        (CONTENT * 2, said("Hello"), "content: the template prints this text, or a part of it, more than once"),
        (
            "{{ m.content[:3] }}" + CONTENT,
            said("Hello"),
            "content: the template prints this text, or a part of it, more",
        ),
        (
            CONTENT + ALL_CALLS * 2,
            said("", ("f", NESTED)),
            "tool_calls[0]: the template prints this call more than once",
        ),
        (CONTENT, said("Hi", ("f", NESTED)), "tool_calls: the template leaves the tool calls out"),
        (
            "{% if m.content %}" + CONTENT + "{% else %}" + ALL_CALLS + "{% endif %}",
            said("Hi", ("f", {})),
            "tool_calls: ",
        ),
        (
            "{% if m.tool_calls %}" + ALL_CALLS + "{% else %}" + CONTENT + "{% endif %}",
            said("Hi", ("f", {})),
            "content: ",
        ),
        (with_calls("{{ c.function.arguments | tojson }}"), said("", ("look", NESTED)), "function.name: "),
        (with_calls("{{ c.function.name | upper }}{{ c.function.arguments | tojson }}"), said("", ("f", {})), "[0]"),
        (with_calls("{{ c.function.name }}"), said("", ("look", NESTED)), "arguments.city: "),
        (of_arguments("{{ v | tojson }}"), said("", ("look", {"a": 1})), "arguments.a: "),
        (of_arguments("{{ k }}"), said("", ("look", {"a": "b"})), "arguments.a: "),
        (of_arguments("{{ k }}={{ v | upper }}"), said("", ("look", {"a": "x"})), "arguments.a: "),
        (of_arguments("{{ k }}={{ v if v is string }}"), said("", ("look", {"a": 1})), "arguments.a: "),
        (of_arguments("{{ k }}={{ v if v is not mapping }}"), said("", ("look", NESTED)), "arguments.deep.a: "),
        (
            of_arguments("{{ k }}={{ v | round(1) if v is float else v }}"),
            said("", ("f", {"a": 3.14159})),
            "arguments.a: ",
        ),
        (of_arguments("{{ k }}={{ v | int }}"), said("", ("f", {"a": 1.5})), "arguments.a: "),
        (
            "{{ (m.reasoning_content or '') * 2 }}|" + CONTENT,
            said("a", reasoning_content="why"),
            "reasoning_content: the ",
        ),
        (
            "{{ (m.reasoning_content or '')[:2] }}|" + CONTENT,
            said("a", reasoning_content="why"),
            "reasoning_content: the ",
        ),
        (CONTENT, said("a", reasoning_content="why"), "reasoning_content: the template leaves the reasoning"),
    ],
)
def test_what_a_template_leaves_out_alters_or_repeats_is_said_by_its_place(
    printed: str, reply_: Message, sentence: str
) -> None:
    chat = chat_format(compile_template(HEADED + printed + ENDED))
    found = laid_out(chat, Conversation([{"role": "user", "content": "q"}, reply_]))
    said_ = [found.message] if isinstance(found, PreprocessError) else [one for view in found for one in view.warnings]
    assert [one for one in said_ if one.startswith("messages[1]") and sentence in one], said_


@pytest.mark.parametrize(
    ("printed", "reply_"),
    [
        ("{{ m.content | trim }}", said("  Hello \n")),
        (CONTENT + ALL_CALLS, said("Hi", ("f", NESTED), ("f", NESTED))),
        (of_arguments("{{ k }}={{ v }}"), said("", ("f", NESTED))),
        (
            of_arguments("<{{ k }}>{{ v | tojson }}</{{ k }}>"),
            said("", ("f", {"a": 1, "b": "1", "c": 10, "d": ["a", "b"]})),
        ),
        (CONTENT + "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}", said("a", ("a", {"a": "a"}))),
        ("{{ m | tojson }}", said("", ("f", NESTED))),
    ],
)
def test_what_is_whole_is_not_warned_of(printed: str, reply_: Message) -> None:
    chat = chat_format(compile_template(HEADED + printed + ENDED))
    found = laid_out(chat, Conversation([{"role": "user", "content": "q"}, reply_]))
    assert not isinstance(found, PreprocessError), found
    assert [view.warnings for view in found] == [()]


@pytest.mark.parametrize("change", ["upper", "reverse", "title", "wordwrap(3)"])
def test_a_prompt_that_is_altered_without_a_change_of_length_is_warned_of(change: str) -> None:
    form = f"{{{{ m.content if m.role == 'assistant' else m.content | {change} }}}}"
    chat = chat_format(compile_template(HEADED + form + ENDED))
    (view,) = render_views(Conversation([{"role": "user", "content": "ab cd"}, said("yo")]), OPTIONS, chat)
    assert view.warnings[0].startswith("messages[0].content: the template ")


#: What templates do with a text, and what of it they mean to drop.
CHANGES = ["m.content", "m.content | trim", "m.content[1:]", "m.content | upper", "m.content.split('</think>')[-1]"]
CHANGES += ["m.content.split('x')[0]", "m.content | replace('a', 'x')", "m.content | tojson", "m.content ~ m.content"]


@given(
    change=st.sampled_from(CHANGES),
    text=st.lists(
        st.sampled_from(["a", "x", "B", " ", "\n", "<think>", "</think>", 'q"q', "é"]), min_size=1, max_size=8
    ),
)
def test_a_trained_text_that_is_not_the_one_that_was_sent_is_never_passed_over(change: str, text: list[str]) -> None:
    sent = "".join(text)
    chat = chat_format(compile_template(HEADED + "{{ " + change + " }}" + ENDED))
    found = laid_out(chat, Conversation([{"role": "user", "content": "q"}, said(sent)]))
    if isinstance(found, PreprocessError):
        return
    (view,) = found
    (span,) = view.message_spans
    printed = view.rendered.text[span.start : span.eot_start]
    wanted = sent.strip()
    quoted = change.endswith("tojson") and wanted in printed and json.loads(printed) == sent  # white space at its ends
    if wanted and printed.strip() != wanted and not quoted:
        assert any(one.startswith("messages[1]") for one in view.warnings), (printed, sent)


SPLITS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and '</think>' in m.content %}"
    "<think>{{ m.content.split('</think>')[0].split('<think>')[-1] }}</think>{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_a_replay_sees_what_is_lost_of_a_later_text() -> None:
    chat = chat_format(compile_template(SPLITS))
    asked: Message = {"role": "user", "content": "q"}
    for number in range(4):
        reply_: Message = {"role": "assistant", "content": f"<think>r{number}</think>a{number}"}
        replayed_views(Conversation([asked, reply_]), OPTIONS, chat)
    assert view_replays(chat, OPTIONS).hits
    for text in ("first <think>r</think>a", "<think>r<think>s</think>a"):
        with pytest.raises(ContentNotCovered, match=r"messages\[1\]\.content: the template leaves out or changes"):
            replayed_views(Conversation([asked, {"role": "assistant", "content": text}]), OPTIONS, chat)


SAID = st.one_of(
    st.sampled_from(["", " ", "a", "a b", "\n a", "\u00a0a\u00a0b", "<think>a</think>b", "a a"]),
    st.text("a b\n<\u00a0", max_size=6),
)


@given(
    SAID,
    SAID,
    st.lists(st.tuples(SAID, st.sampled_from([None, "content", "reasoning_content", "thinking", ""])), max_size=4),
)
@settings(max_examples=400)
def test_a_turn_that_is_as_sent_has_no_warning(
    content: str, thought: str, printed: list[tuple[str, str | None]]
) -> None:
    message: Message = {"role": "assistant", "content": content, "reasoning_content": thought}
    runs = [(0, text, None if field is None else Origin(1, field)) for text, field in printed if text]
    for pieces in (runs, [(0, "<|a|>", None), (0, thought, Origin(1, "thinking")), (0, content, Origin(1, "content"))]):
        if is_as_sent(pieces, message, 1):
            assert trained_warnings(message, 1, Shown(pieces, "".join(text for _, text, _ in pieces))) == []
    assert not is_as_sent([(0, "a", Origin(0, "content"))], {"role": "assistant", "content": "a"}, 1)
    assert is_as_sent([(0, "a", Origin(1, "content"))], {"role": "assistant", "content": "a"}, 1)
