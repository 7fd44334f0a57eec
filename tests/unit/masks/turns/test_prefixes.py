"""Long conversations: what a split gives and costs."""

from collections.abc import Sequence

import pytest

from tests.support import chat_templates as templates
from turnloom.masks.domain import errors
from turnloom.masks.domain.conversation import Conversation, Message
from turnloom.masks.domain.options import OnUnextendable, Options
from turnloom.masks.domain.rendered_text import RenderedText, View
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.template.render import Renders
from turnloom.masks.turns.prefixes import EXACT_MESSAGES
from turnloom.masks.turns.views import ChatFormat, render_views

#: Drops the reasoning of turns before the last question, and of those only.
TOOL_THINKING = (
    "{%- set ns = namespace(last=0) %}"
    "{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.reasoning_content and loop.index0 > ns.last %}"
    "{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
    "{{- m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chat_format(source: str) -> ChatFormat:
    return ChatFormat(compile_template(source), templates.SPECIAL_TOKENS, templates.CONTROL_TOKENS)


def turns(count: int, **more: str) -> list[Message]:
    return [
        message
        for at in range(count)
        for message in (
            {"role": "user", "content": f"question {at}"},
            {"role": "assistant", "content": f"reply {at}", **more},
        )
    ]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The messages of every traced render from now on."""
    rendered: list[int] = []
    traced = Renders.traced

    def count(renders: Renders, messages: Sequence[Message]) -> RenderedText:
        rendered.append(len(messages))
        return traced(renders, messages)

    monkeypatch.setattr(Renders, "traced", count)
    return rendered


def split(source: str, messages: list[Message], **options: object) -> list[View]:
    return render_views(Conversation(messages), Options(date="2026-01-02", **options), chat_format(source))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [3, EXACT_MESSAGES // 2, EXACT_MESSAGES, 300])
def test_turns_that_extend_share_one_view_however_many(count: int) -> None:
    (view,) = split(templates.CHATML, turns(count))
    assert len(view.message_spans) == count
    found = [view.rendered.text[span.start : span.end] for span in view.message_spans]
    assert found == [f"reply {at}<|im_end|>" for at in range(count)]


@pytest.mark.parametrize("count", [3, 30])
def test_turns_that_lose_their_reasoning_get_views_of_their_own(count: int) -> None:
    found = split(TOOL_THINKING, turns(count, reasoning_content="Hm."))
    assert [sorted(view.trained) for view in found] == [[2 * at + 1] for at in range(count)]
    for view in found:
        (span,) = view.message_spans
        assert view.rendered.text[span.start :].startswith("<think>Hm.</think>reply")


def test_a_turn_without_reasoning_shares_the_view_of_the_next() -> None:
    messages = turns(3)
    messages[3] |= {"reasoning_content": "Hm."}
    assert [sorted(view.trained) for view in split(TOOL_THINKING, messages)] == [[1, 3], [5]]


def test_tool_steps_after_one_question_share_a_view() -> None:
    step: list[Message] = [
        {"role": "assistant", "content": "look", "reasoning_content": "Hm."},
        {"role": "tool", "content": "seen"},
    ]
    agent = [{"role": "user", "content": "go"}, *step * 40, {"role": "assistant", "content": "done"}]
    (view,) = split(TOOL_THINKING, agent)
    assert len(view.trained) == 41
    found = split(TOOL_THINKING, [*agent, *turns(1)])
    assert [len(view.trained) for view in found] == [41, 1]


def test_a_thousand_messages_that_do_not_extend_are_refused_before_they_are_rendered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered = counted(monkeypatch)
    with pytest.raises(errors.HistoryDropped, match="needs 500 examples, more than max_examples_per_conversation 64"):
        split(TOOL_THINKING, turns(500, reasoning_content="Hm."))
    assert sum(rendered) < 2000


def test_a_thousand_messages_that_extend_cost_a_few_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = counted(monkeypatch)
    format_ = chat_format(templates.CHATML)
    conversation, options = Conversation(turns(500)), Options(date="2026-01-02")
    render_views(conversation, options, format_)
    assert sum(rendered) < 4000


def test_history_that_changes_at_a_length_no_window_shows_is_refused_not_guessed() -> None:
    source = templates.CHATML.replace(
        "{{ m.content }}", "{% if messages | length > 90 and loop.index0 < 30 %}…{% endif %}{{ m.content }}"
    )
    with pytest.raises(errors.HistoryDropped, match="can't be told from neighbouring turns"):
        split(source, turns(50))


def test_a_user_who_speaks_last_is_shown_where_the_reply_extends_to_him() -> None:
    messages = [*turns(1), {"role": "user", "content": "still there?"}]
    (view,) = split(templates.CHATML, messages)
    assert view.messages == 3
    (cut,) = split(templates.THINKING, messages, on_unextendable=OnUnextendable.LAST)
    assert cut.messages == 2
