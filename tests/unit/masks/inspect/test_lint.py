from __future__ import annotations

from functools import cache

import pytest

from tests.support.small_tokenizers import byte_level
from turnloom.masks.domain.conversation import Conversation, Message
from turnloom.masks.domain.options import ControlTokens, OnUnextendable, Options, Truncation
from turnloom.masks.inspect.lint import EXPLANATIONS, Linter, LintReport, lint
from turnloom.masks.model import Model, build_model

CHATML = (
    "{% for message in messages %}{% if message.role != 'nobody' %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content and loop.last %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def model() -> Model:
    return build_model("small", byte_level(), CHATML, {})


def said(*messages: tuple[str, str]) -> Conversation:
    return Conversation([{"role": role, "content": content} for role, content in messages])


GOOD = said(("user", "hello"), ("assistant", "hi"))
THINKING: list[Message] = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b", "reasoning_content": "r"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d", "reasoning_content": "s"},
]


def report(*conversations: Conversation, options: Options | None = None) -> LintReport:
    return lint(conversations, options or Options(), model())


def test_good_conversations_have_no_findings_and_enter_the_statistics() -> None:
    found = report(GOOD)
    assert found.counts == {}
    assert found.conversations == {"train": 1}
    assert (found.summary.examples, found.summary.loss_tokens) == (1, 3)  # h, i and the end of turn


@pytest.mark.parametrize(
    ("code", "conversation", "options"),
    [
        ("not_trainable", Conversation([]), Options()),
        ("zero_weight", said(("user", "hello")), Options()),
        ("zero_weight", GOOD, Options(max_length=3)),
        ("truncated_answer", said(("user", "a"), ("assistant", "b c d e f g")), Options(max_length=12)),
        ("truncated_answer", GOOD, Options(max_length=3)),
        ("too_long", GOOD, Options(max_length=10)),
        ("too_long", GOOD, Options(max_length=3, truncation=Truncation.ERROR)),
        ("empty_assistant", said(("user", "a"), ("assistant", " ")), Options()),
        ("empty_user", said(("user", ""), ("assistant", "a")), Options()),
        ("last_not_assistant", said(("user", "a"), ("assistant", "b"), ("user", "c")), Options()),
        ("unknown_role", said(("nobody", "a"), ("user", "q"), ("assistant", "b")), Options()),
        ("unknown_role", said(("poet", "a"), ("assistant", "b")), Options()),
        ("history_dropped", Conversation(THINKING), Options()),
        ("history_dropped", Conversation(THINKING), Options(on_unextendable=OnUnextendable.ERROR)),
        ("control_tokens_in_content", said(("user", "<|im_end|>"), ("assistant", "b")), Options()),
        (
            "control_tokens_in_content",
            said(("user", "<|im_end|>"), ("assistant", "b")),
            Options(control_tokens=ControlTokens.REJECT),
        ),
        ("content_parts_repr", said(("user", "[{'type': 'text', 'text': 'a'}]"), ("assistant", "b")), Options()),
        ("non_nfc", said(("user", "e\u0301"), ("assistant", "b")), Options()),
    ],
)
def test_each_code_is_found(code: str, conversation: Conversation, options: Options) -> None:
    found = report(conversation, options=options)
    assert found.counts[code] == 1
    assert found.first[code][0].conversation_index == 0
    assert code in EXPLANATIONS


def test_text_of_parts_is_looked_at_too() -> None:
    parts: list[Message] = [
        {"role": "user", "content": [{"type": "text", "text": "e\u0301"}]},
        {"role": "assistant", "content": "b"},
    ]
    assert "non_nfc" in report(Conversation(parts)).counts


def test_an_assistant_that_only_calls_tools_is_not_empty() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    messages: list[Message] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    assert "empty_assistant" not in report(Conversation(messages)).counts


def test_a_duplicate_names_the_first_one() -> None:
    found = report(said(("user", "a"), ("assistant", "b")), GOOD, GOOD)
    assert found.first["duplicate"][0].conversation_index == 2
    assert found.first["duplicate"][0].sentence == "repeats conversation 1"


def test_an_overlap_of_test_and_train_is_found_over_calls() -> None:
    linter = Linter(model(), Options())
    linter.add([said(("user", "a"), ("assistant", "b"))])
    linter.add([GOOD])
    (finding,) = linter.add([GOOD], "test")
    assert (finding.code, finding.split, finding.sentence) == (
        "train_test_overlap",
        "test",
        "is the train split's conversation 1",
    )
    assert linter.report().conversations == {"train": 2, "test": 1}
    assert linter.report().summary.conversations == 2


def test_first_offenders_are_few_and_counts_are_whole() -> None:
    linter = Linter(model(), Options(), max_offenders=2)
    for index in range(4):
        linter.add([said(("user", f"{index}"), ("assistant", "b"), ("user", "c"))])
    found = linter.report()
    assert found.counts["last_not_assistant"] == 4
    assert [finding.conversation_index for finding in found.first["last_not_assistant"]] == [0, 1]
