"""From conversations to message spans: what is trained is what a model sampled from the prompt would have to emit."""

import datetime
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import chat_templates as templates
from turnloom.masks.domain import errors
from turnloom.masks.domain.conversation import Conversation, Message
from turnloom.masks.domain.options import GenerationPrefill, Mask, NextHeaderStop, OnUnextendable, Options, TrainOn
from turnloom.masks.domain.rendered_text import Kind, Origin, View
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.template.render import Settings, render_plain
from turnloom.masks.turns.views import ChatFormat, render_views

DATE = "2026-01-02"
PLAIN_TEMPLATES = ("CHATML", "THINKING", "INSTRUCT", "OPEN_ENDED", "TWO_CLOSINGS", "EPILOGUE")


def chat_format(source: str) -> ChatFormat:
    return ChatFormat(compile_template(source), templates.SPECIAL_TOKENS, templates.CONTROL_TOKENS)


def user(text: object) -> Message:
    return {"role": "user", "content": text}  # type: ignore[dict-item]


def assistant(text: object, **more: object) -> Message:
    return {"role": "assistant", "content": text, **more}  # type: ignore[dict-item]


def views(
    source: str, messages: Sequence[Message], trained: Sequence[int] | None = None, **options: object
) -> list[View]:
    return render_views(Conversation(messages), Options(date=DATE, **options), chat_format(source), trained)  # type: ignore[arg-type]


def trained_texts(found: Sequence[View]) -> list[tuple[int, str]]:
    return [(r.message_index, v.rendered.text[r.start : r.end]) for v in found for r in v.message_spans]


def kinds(view: View, span: int = 0) -> list[tuple[str, str]]:
    return [(part.kind.value, view.rendered.text[part.start : part.end]) for part in view.message_spans[span].parts]


CHAT = [user("Hi."), assistant("Hello."), user("And?"), assistant("Well.")]


def test_a_template_that_keeps_history_gives_one_view_with_every_reply() -> None:
    (view,) = views(templates.CHATML, CHAT)
    assert trained_texts([view]) == [(1, "Hello.<|im_end|>"), (3, "Well.<|im_end|>")]
    assert view.trained == {1, 3}
    assert view.message_spans[0].located_by == "generation_prompt/eot"
    span = view.message_spans[0]
    assert view.rendered.text[span.eot_start : span.end] == "<|im_end|>"
    assert view.rendered.text[span.end : span.trailing_end] == "\n"
    assert view.warnings == ()


def test_a_template_that_drops_reasoning_gives_a_view_for_every_reply() -> None:
    found = views(templates.THINKING, CHAT)
    assert [view.messages for view in found] == [2, 4]
    assert trained_texts(found) == [
        (1, "<think>\n\n</think>\n\nHello.<|im_end|>"),
        (3, "<think>\n\n</think>\n\nWell.<|im_end|>"),
    ]


def test_last_keeps_the_last_reply_only() -> None:
    (view,) = views(templates.THINKING, CHAT, on_unextendable=OnUnextendable.LAST)
    assert view.trained == {3}


def test_as_rendered_trains_earlier_turns_as_the_full_render_shows_them() -> None:
    (view,) = views(templates.THINKING, CHAT, on_unextendable=OnUnextendable.AS_RENDERED)
    assert trained_texts([view])[0] == (1, "Hello.<|im_end|>")


def test_error_names_the_turn_that_does_not_extend() -> None:
    with pytest.raises(errors.HistoryDropped, match=r"^messages\[1\]: the template renders this turn differently"):
        views(templates.THINKING, CHAT, on_unextendable=OnUnextendable.ERROR)


def test_too_many_views_are_refused_with_their_number() -> None:
    with pytest.raises(errors.HistoryDropped, match="needs 2 examples, more than max_examples_per_conversation 1"):
        views(templates.THINKING, CHAT, max_examples_per_conversation=1)


def test_views_train_disjoint_messages_and_only_those_asked_for() -> None:
    found = views(templates.THINKING, CHAT, trained=[0, 3])
    assert [sorted(view.trained) for view in found] == [[0, 3]]
    assert trained_texts(found)[0] == (0, "Hi.<|im_end|>")


def test_without_generation_prompt_the_reply_begins_after_the_users_close() -> None:
    (view,) = views(templates.INSTRUCT, CHAT)
    assert trained_texts([view]) == [(1, " Hello.</s>"), (3, " Well.</s>")]
    assert view.message_spans[0].located_by == "prompt/eot"


def test_a_turn_that_the_next_role_closes_has_no_end_of_turn_and_says_so() -> None:
    (view,) = views(templates.OPEN_ENDED, CHAT, next_header_stop=NextHeaderStop.NEVER)
    assert trained_texts([view]) == [(1, "Hello."), (3, "Well.")]
    assert all(span.eot_start == span.end for span in view.message_spans)
    assert view.warnings[0] == "messages[1]: the template prints no end-of-turn token after this turn"


def test_each_turn_has_the_closing_it_has_when_it_is_sampled() -> None:
    assert trained_texts(views(templates.TWO_CLOSINGS, CHAT)) == [
        (1, "<|message|>Hello.<|return|>"),
        (3, "<|message|>Well.<|return|>"),
    ]


def test_a_token_that_ends_the_whole_text_is_no_end_of_turn() -> None:
    assert trained_texts(views(templates.EPILOGUE, CHAT))[-1] == (3, "Well.<|im_end|>")


def _default_system(system: str, user_: str, reply: str, last: str, earlier: str, alternating: bool) -> str:
    """A template with a default system prompt, by what it prints after each role's text."""
    refuse = "{% if loop.previtem and loop.previtem.role == m.role %}{{ raise_exception('alternate') }}{% endif %}"
    return (
        f"{{% if messages[0].role != 'system' %}}<|start|>Be kind.{system}{{% endif %}}"
        f"{{% for m in messages %}}{refuse if alternating else ''}<|{{{{ m.role }}}}|>{{{{ m.content }}}}"
        f"{{% if m.role == 'assistant' %}}{reply}{{% if loop.last %}}{last}{{% else %}}{earlier}{{% endif %}}"
        f"{{% elif m.role == 'system' %}}{system}{{% else %}}{user_}{{% endif %}}{{% endfor %}}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


@pytest.mark.parametrize(
    ("system", "user_", "alternating"),
    [
        ("<|end|>", "<|end|>", False),
        ("<|end|>", "<|end|>", True),
        ("<|end|>", "</s>", True),
        ("<|message|><|end|>", "</s>", False),
        ("<|message|><|end|>", "<|message|><|end|>", True),
    ],
)
def test_a_token_before_the_closing_is_not_taken_for_it_where_a_default_system_prompt_hides_the_header(
    system: str, user_: str, alternating: bool
) -> None:
    source = _default_system(system, user_, "<|message|>", "<|return|>", "<|end|>", alternating)
    with pytest.raises(errors.UnlocatableTurn, match=r"messages\[1\]: .* whether that still closes the turn"):
        views(source, CHAT[:2])


@pytest.mark.parametrize(("system", "alternating"), [("<|end|>", False), ("<|end|>", True), ("\n", False)])
def test_a_default_system_prompt_does_not_hide_where_a_turn_ends_before_an_epilogue(
    system: str, alternating: bool
) -> None:
    source = _default_system(system, "</s>", "<|end|>", "<|endoftext|>", "", alternating)
    assert trained_texts(views(source, CHAT[:2])) == [(1, "Hello.<|end|>")]


def test_a_reply_that_is_not_rendered_after_its_own_prompt_is_trained_with_a_warning() -> None:
    (view,) = views(templates.PREFILLED, CHAT)
    assert trained_texts([view]) == [(1, "Hello.<|im_end|>"), (3, "Well.<|im_end|>")]
    assert view.message_spans[0].located_by == "header/eot"
    assert (
        "does not render this turn after its own generation prompt '<|im_start|>assistant\\n<think>\\n'"
        in view.warnings[0]
    )


@pytest.mark.parametrize(
    ("prefill", "expected"),
    [
        (GenerationPrefill.DEFAULT, "<think>\n\n</think>\n\nHello.<|im_end|>"),
        (GenerationPrefill.LONGEST, "Hello.<|im_end|>"),
        (GenerationPrefill.NONE, "<think>\n\n</think>\n\nHello.<|im_end|>"),
    ],
)
def test_generation_prefill_chooses_how_much_is_prompt(prefill: GenerationPrefill, expected: str) -> None:
    assert trained_texts(views(templates.THINKING, CHAT[:2], generation_prefill=prefill)) == [(1, expected)]


def test_prefill_none_begins_after_the_role_also_where_the_prompt_opens_thinking() -> None:
    chat = [user("Hi."), assistant("<think>\nHm.\n</think>\nHello.")]
    (default,) = views(templates.PREFILLED, chat)
    (none,) = views(templates.PREFILLED, chat, generation_prefill=GenerationPrefill.NONE)
    assert trained_texts([default]) == [(1, "Hm.\n</think>\nHello.<|im_end|>")]
    assert trained_texts([none]) == [(1, "<think>\nHm.\n</think>\nHello.<|im_end|>")]


@pytest.mark.parametrize("history", [[], CHAT[:2]])
def test_a_reply_that_thinks_after_a_prompt_that_closes_thinking_begins_at_its_role(history: list[Message]) -> None:
    chat = [*history, user("Hi."), assistant("Hello.", reasoning_content="Hm.")]
    view = views(templates.THINKING, chat, chat_template_kwargs={"enable_thinking": False})[-1]
    span = view.message_spans[-1]
    assert view.rendered.text[: span.start].endswith("Hi.<|im_end|>\n<|im_start|>assistant\n")
    assert view.rendered.text[span.start : span.end] == "<think>\nHm.\n</think>\n\nHello.<|im_end|>"
    assert span.located_by == "header/eot"
    assert "does not render this turn after its own generation prompt" in view.warnings[0]


def test_a_prompt_that_turns_off_thinking_in_the_question_shares_only_the_role_with_its_variants() -> None:
    source = (
        "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}"
        "<think>{{ m.reasoning_content or '' }}</think>\n{% endif %}{{ m.content }}"
        "{% if m.role == 'user' and enable_thinking is false %}/nothink{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% if enable_thinking is false %}<think></think>\n{% endif %}"
        "{% endif %}"
    ).replace("is false", "is defined and enable_thinking is false")
    chat = [user("Hi."), assistant("Hello.", reasoning_content="Hm.")]
    (view,) = views(source, chat, chat_template_kwargs={"enable_thinking": False})
    assert trained_texts([view]) == [(1, "<think>Hm.</think>\nHello.")]
    assert view.warnings


def test_a_proof_about_a_prefilled_reply_is_not_used_for_one_that_begins_otherwise() -> None:
    format_ = chat_format(templates.PREFILLED)
    for text, expected in (("<think>\nHm.", "Hm.<|im_end|>"), ("<think>Hm.", "<think>Hm.<|im_end|>")) * 2:
        found = render_views(Conversation([user("Hi."), assistant(text)]), Options(date=DATE), format_)
        assert trained_texts(found) == [(1, expected)]


@pytest.mark.parametrize("reply", ["", "\n\n  x\n", "<|im_end|>\n<|im_start|>assistant\n", "</s>[/INST]", "🙂\u00a0é"])
@pytest.mark.parametrize("name", PLAIN_TEMPLATES)
def test_the_last_turn_is_what_follows_the_prompt(name: str, reply: str) -> None:
    source = getattr(templates, name)
    messages = [user("<|im_end|>\n<|im_start|>assistant\n[/INST]"), assistant(reply)]
    (view,) = views(source, messages)
    setup = Settings(datetime.date.fromisoformat(DATE), templates.SPECIAL_TOKENS)
    prompt = render_plain(messages[:1], None, compile_template(source), setup, add_generation_prompt=True)
    assert view.rendered.text[: view.message_spans[0].start] == prompt
    assert view.rendered.text[view.message_spans[0].end :].strip() in ("", "<|endoftext|>")


def test_kinds_follow_the_field_a_character_came_from() -> None:
    reply = assistant("Look.", reasoning_content="Hm.", tool_calls=[{"function": {"name": "f", "arguments": {"x": 1}}}])
    (view,) = views(templates.THINKING, [user("Hi."), reply])
    assert kinds(view) == [
        ("scaffold", "<think>\n"),
        ("reasoning", "Hm."),
        ("scaffold", "\n</think>\n\n"),
        ("content", "Look."),
        ("scaffold", "\n<tool_call>"),
        ("tool_call", '{"name": "f", "arguments": {"x": 1}}'),
        ("scaffold", "</tool_call>"),
        ("eot", "<|im_end|>"),
    ]


def test_reasoning_inside_content_counts_as_reasoning_where_the_template_splits_it_off() -> None:
    chat = [user("Hi."), assistant("<think>Hm.</think>Hello.")]
    (split,) = views(templates.THINKING, chat)
    (printed,) = views(templates.CHATML, chat)
    assert ("reasoning", "Hm.") in kinds(split)
    assert ("content", "Hello.") in kinds(split)
    assert kinds(printed) == [("content", "<think>Hm.</think>Hello."), ("eot", "<|im_end|>")]


@pytest.mark.parametrize("name", [*PLAIN_TEMPLATES, "PREFILLED"])
@pytest.mark.parametrize("reply", ["\n\nHello.", "", "Hello."])
def test_token_boundaries_do_not_depend_on_what_is_trained(name: str, reply: str) -> None:
    chat = [user("Hi."), assistant(reply), user("And?"), assistant("\nWell.")]
    source = getattr(templates, name)
    every = views(source, chat)[-1]
    (last,) = views(source, chat, trained=[3])
    assert last.rendered == every.rendered
    assert last.boundaries == every.boundaries
    assert {span.start for span in every.message_spans} <= set(every.boundaries)
    assert [span.message_index for span in last.message_spans] == [3]


def test_history_that_a_view_shows_in_another_form_has_its_boundary_too() -> None:
    first, second = views(templates.THINKING, CHAT)
    assert len(first.boundaries) == 1
    text = second.rendered.text
    assert [text[:at].endswith("<|im_start|>assistant\n") for at in second.boundaries] == [True, True]
    assert text[second.boundaries[0] :].startswith("Hello.")


def test_an_untrained_reply_that_can_not_be_located_refuses_no_one_and_has_no_boundary() -> None:
    source = templates.CHATML.replace("{{ m.content }}", "{{ '' if m.content == 'Hello.' else m.content }}")
    format_ = chat_format(source)
    for _ in range(2):
        (view,) = render_views(Conversation(CHAT), Options(date=DATE), format_, [3])
        assert trained_texts([view]) == [(3, "Well.<|im_end|>")]
        assert view.boundaries == (view.message_spans[0].start,)


def test_generation_blocks_give_a_boundary_to_every_reply() -> None:
    source = templates.GENERATION["top level"]
    (every,) = views(source, CHAT, mask=Mask.TEMPLATE)
    (last,) = views(source, CHAT, trained=[3], mask=Mask.TEMPLATE)
    assert last.boundaries == every.boundaries == tuple(span.start for span in every.message_spans)


@pytest.mark.parametrize("name", list(templates.GENERATION))
def test_generation_blocks_are_regions_wherever_they_stand(name: str) -> None:
    (view,) = views(templates.GENERATION[name], [*CHAT[:3], assistant("")], mask=Mask.TEMPLATE)
    assert trained_texts([view]) == [(1, "Hello.<|im_end|>"), (3, "<|im_end|>")]
    assert {span.located_by for span in view.message_spans} == {"generation_block"}
    assert view.rendered.text[view.message_spans[0].eot_start : view.message_spans[0].end] == "<|im_end|>"


def test_mask_template_refuses_a_template_without_blocks() -> None:
    with pytest.raises(errors.UnlocatableTurn, match=r"messages\[1\]: no {% generation %} block prints this turn"):
        views(templates.CHATML, CHAT, mask=Mask.TEMPLATE)


def test_a_block_around_two_messages_is_refused() -> None:
    source = "{% generation %}{% for m in messages %}{{ m.content }}{% endfor %}{% endgeneration %}"
    with pytest.raises(errors.Interleaved, match=r"shows text of messages \[0, 1\]"):
        views(source, CHAT[:2], mask=Mask.TEMPLATE)


REFUSED = [
    (
        "{{ messages | length }}",
        CHAT,
        errors.ContentNotCovered,
        r"messages\[1\].content: the template leaves this text out",
    ),
    (templates.CHATML, [], errors.EmptyConversation, "the conversation has no messages"),
    (templates.CHATML, [user("Hi.")], errors.NoAssistantTurn, "no assistant message is to be trained"),
    (templates.CHATML, [{"content": "x"}], errors.UnknownRole, r"messages\[0\].role: None is no role"),
    (templates.CHATML, [{"role": "a<|im_end|>", "content": ""}], errors.UnknownRole, "is no role; a role is a word"),
    (
        templates.CHATML,
        [user(5)],
        errors.UnsupportedContent,
        r"messages\[0\].content: is neither text nor a list; give text",
    ),
    (templates.CHATML, [user([{"type": "image"}])], errors.UnsupportedContent, "part 0 is of type 'image'; only text"),
    (templates.CHATML, [user([{"type": "text", "text": "a"}]), CHAT[1]], errors.UnsupportedContent, "as Python code"),
    (
        templates.INSTRUCT,
        [{"role": "system", "content": "x"}, *CHAT],
        errors.TemplateRefused,
        "only user and assistant",
    ),
    (
        templates.CHATML,
        [user("Hi."), assistant("", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])],
        errors.ContentNotCovered,
        r"messages\[1\].tool_calls: the template leaves the tool calls out",
    ),
    (
        "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}{{ messages[0].content }}",
        CHAT[:2],
        errors.Interleaved,
        r"messages\[1\]: text of another message follows inside this turn",
    ),
    (
        "{{ '%9s%9s' % (messages[0].content, messages[1].content) }}",
        CHAT[:2],
        errors.PreprocessError,
        r"messages\[1\]",
    ),
    (
        "{% for m in messages %}{% if m.role != 'bot' %}<|im_start|>{{ m.content }}<|im_end|>{% endif %}{% endfor %}",
        [{"role": "bot", "content": "x"}, *CHAT],
        errors.UnknownRole,
        r"messages\[0\].role: the template prints nothing of role 'bot'",
    ),
    (
        templates.CHATML,
        [{"role": "usr", "content": "x"}, *CHAT],
        errors.UnknownRole,
        r"messages\[0\].role: 'usr' is no role that this chat template knows; write 'user' if",
    ),
]


@pytest.mark.parametrize(("source", "messages", "kind", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_can_not_be_proved_is_refused_by_name(
    source: str, messages: list[Message], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        views(source, messages)


def test_a_role_that_only_this_template_knows_is_taken() -> None:
    source = templates.CHATML + "{% if messages[0].role == 'critic' %}{% endif %}"
    (view,) = views(source, [{"role": "critic", "content": "Be brief."}, *CHAT])
    assert "Be brief." in view.rendered.text


def test_a_dropped_system_message_is_told() -> None:
    source = "{% for m in messages if m.role != 'system' %}" + templates.CHATML.removeprefix("{% for m in messages %}")
    (view,) = views(source, [{"role": "system", "content": "Be brief."}, *CHAT])
    assert view.warnings == ("messages[0]: the template prints nothing of this system message",)


def test_all_messages_get_regions_up_to_their_end_of_turn() -> None:
    (view,) = views(templates.CHATML, CHAT, trained=range(4), train_on=TrainOn.ALL_MESSAGES)
    assert trained_texts([view]) == [
        (0, "Hi.<|im_end|>"),
        (1, "Hello.<|im_end|>"),
        (2, "And?<|im_end|>"),
        (3, "Well.<|im_end|>"),
    ]


def test_a_date_is_pinned_and_a_bad_one_refused() -> None:
    source = "{{ strftime_now('%d %B %Y') }}" + templates.CHATML
    (view,) = views(source, CHAT)
    assert view.rendered.text.startswith("02 January 2026<|im_start|>")
    assert view.rendered.runs[0][1] is None
    with pytest.raises(errors.PreprocessError, match="date 'soon' is no ISO date"):
        render_views(Conversation(CHAT), Options(date="soon"), chat_format(source))


def test_a_template_that_prints_the_date_warns_where_none_is_given() -> None:
    format_ = chat_format("{{ strftime_now('%d') }}" + templates.CHATML)
    (view,) = render_views(Conversation(CHAT), Options(), format_)
    assert "other tokens tomorrow" in view.warnings[0]


def test_reasoning_that_the_template_leaves_out_is_told() -> None:
    (view,) = views(templates.CHATML, [user("Hi."), assistant("Hello.", reasoning_content="Hm.")])
    assert view.warnings == ("messages[1].reasoning_content: the template leaves the reasoning of this turn out",)


def test_template_kwargs_reach_the_template_and_keep_proofs_apart() -> None:
    format_ = chat_format(templates.THINKING)
    for thinking, expected in ((False, "Hello.<|im_end|>"), (True, "<think>\n\n</think>\n\nHello.<|im_end|>")) * 2:
        options = Options(date=DATE, chat_template_kwargs={"enable_thinking": thinking})
        assert trained_texts(render_views(Conversation(CHAT[:2]), options, format_)) == [(1, expected)]


TEXTS = st.text(alphabet="ab\n <|im_end|>é", max_size=8)
MESSAGES = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4).map(
    lambda pairs: [message for question, reply in pairs for message in (user(question), assistant(reply))]
)


@settings(max_examples=60, deadline=None)
@given(messages=MESSAGES)
@pytest.mark.parametrize("name", PLAIN_TEMPLATES)
def test_no_character_of_another_message_lies_in_a_region_and_all_own_ones_do(
    name: str, messages: list[Message]
) -> None:
    for view in views(getattr(templates, name), messages):
        position = 0
        for length, origin in view.rendered.runs:
            if origin is not None:
                inside = [r for r in view.message_spans if r.start < position + length and position < r.end]
                assert {r.message_index for r in inside} <= {origin.message_index}
                if origin.message_index in view.trained and messages[origin.message_index]["role"] == "assistant":
                    assert inside
                    assert inside[0].start <= position
                    assert position + length <= inside[0].end
            position += length
        for span in view.message_spans:
            assert [part.start for part in span.parts] + [span.end] == (
                [span.start] + [part.end for part in span.parts]
            )


@settings(max_examples=40, deadline=None)
@given(messages=MESSAGES)
@pytest.mark.parametrize("name", PLAIN_TEMPLATES)
def test_cached_proofs_give_what_fresh_ones_give(name: str, messages: list[Message]) -> None:
    source = getattr(templates, name)
    warm = _WARM.setdefault(name, chat_format(source))
    options = Options(date=DATE)
    cold = render_views(Conversation(messages), options, chat_format(source))
    assert render_views(Conversation(messages), options, warm) == cold


_WARM: dict[str, ChatFormat] = {}


def test_origins_of_tools_and_messages_are_kept_apart() -> None:
    source = "{{ tools | tojson }}" + templates.CHATML
    (view,) = render_views(Conversation(CHAT, tools=[{"name": "<|im_end|>"}]), Options(date=DATE), chat_format(source))
    assert view.rendered.runs[0] == (24, Origin(-1, "tools"))
    assert Kind.HEADER not in {part.kind for span in view.message_spans for part in span.parts}
