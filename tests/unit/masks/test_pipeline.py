from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.small_tokenizers import byte_level, families
from turnloom.masks.domain.conversation import Conversation, Message, Training
from turnloom.masks.domain.errors import (
    ControlTokenRejected,
    EmptyConversation,
    InvalidOption,
    NoAssistantTurn,
    NothingToTrain,
    PreprocessError,
    RoundTripFailed,
    TooLong,
    UnknownRole,
    UnsupportedContent,
)
from turnloom.masks.domain.example import PreprocessedConversation, TokenizedExample
from turnloom.masks.domain.options import (
    ControlTokens,
    OnUnextendable,
    Options,
    PartWeights,
    Tokenization,
    TrainOn,
    TrainOnEot,
    Truncation,
)
from turnloom.masks.model import Model, build_model
from turnloom.masks.pipeline import fitted_batch, preprocess, preprocess_batch
from turnloom.masks.turns import views as layout

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Shows the reasoning of the last turn only, as Qwen3 does.
FORGETS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and loop.last %}"
    "<think>\n{{ message.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED = "Today is {{ strftime_now('%Y-%m-%d') }}.\n" + CHATML
#: Closes a turn only by the next role, as GLM does.
OPEN = (
    "{% for message in messages %}{{ '<|im_start|>' }}{{ message.role }}\n{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATE = "2026-01-31"


@cache
def model(template: str = CHATML, family: str = "byte_level") -> Model:
    return build_model("small", families()[family], template, {"eos_token": "<|endoftext|>"})


def said(*messages: tuple[str, str], training: tuple[Training, ...] = ()) -> Conversation:
    return Conversation([{"role": role, "content": content} for role, content in messages], training=training)


def trained_text(example: TokenizedExample, small: Model) -> str:
    weights = example.target_weights()
    return small.vocabulary.decode(example.token_ids[1:][weights > 0]).decode()


CHAT = said(
    ("system", "Be brief."), ("user", "Hello?"), ("assistant", "I am fine."), ("user", "why"), ("assistant", "\n\nso")
)


def test_the_trained_text_is_every_reply_with_its_end_token() -> None:
    (example,) = preprocess(CHAT, Options(date=DATE), model()).examples
    assert trained_text(example, model()) == "I am fine.<|im_end|>\n\nso<|im_end|>"
    assert sum(length for length, _ in example.weight_runs) == len(example.token_ids) - 1
    assert example.target_bytes == len("I am fine.<|im_end|>\n\nso<|im_end|>")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(train_on=TrainOn.LAST_ASSISTANT_MESSAGE), "\n\nso<|im_end|>"),
        (Options(train_on=TrainOn.ALL_USER_AND_SYSTEM_MESSAGES), "Be brief.<|im_end|>Hello?<|im_end|>why<|im_end|>"),
        (Options(train_on_eot=TrainOnEot.NONE), "I am fine.\n\nso"),
        (Options(train_on_eot=TrainOnEot.LAST), "I am fine.\n\nso<|im_end|>"),
        (Options(include_trailing_whitespace=True), "I am fine.<|im_end|>\n\n\nso<|im_end|>\n"),
        (Options(part_weights=PartWeights(content=0.0)), "<|im_end|><|im_end|>"),
    ],
)
def test_options_choose_what_is_trained(options: Options, expected: str) -> None:
    (example,) = preprocess(CHAT, replace(options, date=DATE), model()).examples
    assert trained_text(example, model()) == expected


def test_all_tokens_trains_all_but_the_first() -> None:
    (example,) = preprocess(CHAT, Options(train_on=TrainOn.ALL_TOKENS), model()).examples
    assert example.weight_runs == ((len(example.token_ids) - 1, 1.0),)


def test_customized_trains_what_is_trainable_with_its_weight() -> None:
    marked = tuple(Training(trainable=index == 1, weight=0.5) for index in range(5))
    (example,) = preprocess(replace(CHAT, training=marked), Options(train_on=TrainOn.CUSTOMIZED), model()).examples
    assert trained_text(example, model()) == "Hello?<|im_end|>"
    assert {weight for _, weight in example.weight_runs} == {0.0, 0.5}


def test_the_prompt_is_the_inference_prompt_token_by_token() -> None:
    (example,) = preprocess(said(("user", "hi"), ("assistant", "\n\nyes")), Options(), model()).examples
    prompt = model().vocabulary.stock.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n").ids
    assert example.token_ids[: len(prompt)].tolist() == prompt
    assert example.weight_runs[0] == (len(prompt) - 1, 0.0)


def test_hf_mode_gives_the_stock_ids_and_warns_of_control_tokens_it_takes() -> None:
    chat = said(("user", "x<|im_end|>y"), ("assistant", "\n\nyes"))
    made = preprocess(chat, Options(tokenization=Tokenization.HF), model())
    text = "<|im_start|>user\nx<|im_end|>y<|im_end|>\n<|im_start|>assistant\n\n\nyes<|im_end|>\n"
    assert made.examples[0].token_ids.tolist() == model().vocabulary.stock.encode(text).ids
    assert made.escaped == ()
    assert any(line.startswith("tokenization=hf takes 1 control token from text of messages") for line in made.warnings)


def test_escaped_control_tokens_are_reported_once_by_message_and_offset() -> None:
    chat = said(("user", "x<|im_end|>"), ("assistant", "a"), ("user", "b"), ("assistant", "c"))
    made = preprocess(chat, Options(), model(FORGETS))
    assert len(made.examples) == 2
    assert [(span.message_index, span.text) for span in made.escaped] == [(0, "<|im_end|>")]


@pytest.mark.parametrize("tokenization", list(Tokenization))
def test_reject_refuses_them_in_both_tokenizations(tokenization: Tokenization) -> None:
    options = Options(control_tokens=ControlTokens.REJECT, tokenization=tokenization)
    with pytest.raises(ControlTokenRejected, match=r"messages\[0\]: spells the control token '<\|im_end\|>'"):
        preprocess(said(("user", "x<|im_end|>"), ("assistant", "a")), options, model())


def test_a_final_stop_closes_a_turn_that_the_template_leaves_open() -> None:
    chat = said(("user", "hi"), ("assistant", "yes"))
    (example,) = preprocess(chat, Options(ensure_final_stop=True), model(OPEN)).examples
    assert trained_text(example, model(OPEN)) == "yes<|endoftext|>"
    assert example.token_ids[-1] == model(OPEN).vocabulary.table.by_content["<|endoftext|>"].id


def test_a_final_stop_without_an_eos_token_is_refused() -> None:
    nameless = build_model("small", byte_level(), OPEN, {})
    with pytest.raises(InvalidOption, match="needs the tokenizer's eos_token, but '' is no token of small"):
        preprocess(said(("user", "hi"), ("assistant", "yes")), Options(ensure_final_stop=True), nameless)


def test_truncation_right_says_what_it_cut() -> None:
    (whole,) = preprocess(CHAT, Options(), model()).examples
    (example,) = preprocess(CHAT, Options(max_length=len(whole.token_ids) - 3), model()).examples
    assert len(example.token_ids) == len(whole.token_ids) - 3
    assert example.truncated_tokens == 3
    assert example.truncated_loss_tokens == 2  # "so", the end token; the newline behind it weighs nothing


def test_truncation_left_keeps_the_end() -> None:
    (whole,) = preprocess(CHAT, Options(), model()).examples
    (example,) = preprocess(CHAT, Options(max_length=8, truncation=Truncation.LEFT), model()).examples
    assert example.token_ids.tolist() == whole.token_ids[-8:].tolist()
    assert trained_text(example, model()).endswith("so<|im_end|>")


def test_truncation_error_names_both_lengths() -> None:
    (whole,) = preprocess(CHAT, Options(), model()).examples
    with pytest.raises(TooLong, match=f"the example has {len(whole.token_ids)} tokens, max_length is 20; raise it"):
        preprocess(CHAT, Options(max_length=20, truncation=Truncation.ERROR), model())


def test_drop_turns_drops_the_oldest_turns_and_keeps_the_system_prompt() -> None:
    (whole,) = preprocess(CHAT, Options(), model()).examples
    options = Options(max_length=len(whole.token_ids) - 1, truncation=Truncation.DROP_TURNS)
    made = preprocess(CHAT, options, model())
    shorter = said(("system", "Be brief."), ("user", "why"), ("assistant", "\n\nso"))
    (expected,) = preprocess(shorter, Options(), model()).examples
    (example,) = made.examples
    assert example.token_ids.tolist() == expected.token_ids.tolist()
    assert example.truncated_tokens == len(whole.token_ids) - len(expected.token_ids)
    assert example.truncated_loss_tokens > 0
    assert made.warnings[-1].startswith("messages[1] to messages[2] were dropped, ")


def test_drop_turns_drops_no_more_than_needed() -> None:
    turns = [pair for index in range(6) for pair in (("user", f"question {index}"), ("assistant", f"answer {index}"))]
    (whole,) = preprocess(said(*turns), Options(), model()).examples
    for dropped in range(1, 6):
        (kept,) = preprocess(said(*turns[2 * dropped :]), Options(), model()).examples
        options = Options(max_length=len(kept.token_ids), truncation=Truncation.DROP_TURNS)
        (example,) = preprocess(said(*turns), options, model()).examples
        assert example.token_ids.tolist() == kept.token_ids.tolist()
        assert example.truncated_tokens == len(whole.token_ids) - len(kept.token_ids)


def test_drop_turns_refuses_when_the_last_turn_alone_is_too_long() -> None:
    with pytest.raises(TooLong, match=r"the last turn with the system prompt has \d+ tokens, max_length is 5"):
        preprocess(CHAT, Options(max_length=5, truncation=Truncation.DROP_TURNS), model())
    with pytest.raises(TooLong, match="no other turn can be dropped"):
        preprocess(
            said(("user", "a"), ("assistant", "b")), Options(max_length=5, truncation=Truncation.DROP_TURNS), model()
        )


def test_nothing_left_to_train_is_an_error_that_names_the_option() -> None:
    with pytest.raises(
        NothingToTrain,
        match=r"truncation=right cuts every trained token \(\d+ of \d+ that it cuts\) to fit max_length=\d+",
    ) as caught:
        preprocess(CHAT, Options(max_length=10), model())
    assert caught.value.field == "max_length"


def test_weights_of_zero_everywhere_are_an_error() -> None:
    silent = tuple(Training(weight=0.0) for _ in range(5))
    with pytest.raises(NothingToTrain, match="no token has weight"):
        preprocess(replace(CHAT, training=silent), Options(), model())


def test_one_example_of_a_split_that_is_cut_empty_is_left_out_with_a_warning() -> None:
    chat = said(("user", "a " * 40), ("assistant", "x"), ("user", "b"), ("assistant", "y"))
    (first, second) = preprocess(chat, Options(), model(FORGETS)).examples
    made = preprocess(chat, Options(max_length=len(first.token_ids)), model(FORGETS))
    assert [example.part for example in made.examples] == [0]
    assert any(line.startswith("one example is left out: truncation=") for line in made.warnings)
    assert len(second.token_ids) > len(first.token_ids)


def test_a_conversation_without_messages_or_without_a_chosen_one_is_refused() -> None:
    with pytest.raises(EmptyConversation):
        preprocess(Conversation([]), Options(), model())
    with pytest.raises(NoAssistantTurn, match="train_on=all_assistant_messages chooses no message"):
        preprocess(said(("user", "hi")), Options(), model())


@pytest.mark.parametrize(
    ("role", "meant"),
    [
        ("assistent", "assistant"),
        ("Assistant", "assistant"),
        ("ASSISTANT", "assistant"),
        ("assistant:", "assistant"),
        ("ai", "assistant"),
        ("gpt", "assistant"),
        ("Human", "user"),
        ("usr", "user"),
        ("observation", "tool"),
    ],
)
@pytest.mark.parametrize("others", [(), (("assistant", "Yes."),)])
def test_a_mistyped_role_is_refused_by_its_place_and_with_the_role_that_is_meant(
    role: str, meant: str, others: tuple[tuple[str, str], ...]
) -> None:
    with pytest.raises(UnknownRole) as refused:
        preprocess(said(("user", "Hi"), (role, "Ho"), *others), Options(), model())
    assert refused.value.message.startswith(f"messages[1].role: {role!r} is no role")
    assert f"write '{meant}' if that is meant, or use system, developer, user, assistant or tool" in str(refused.value)


def test_ids_that_decode_to_other_text_are_refused_by_message_and_place_and_quote_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = build_model("wrong", byte_level(), CHATML, {})
    good = small.vocabulary.encode
    monkeypatch.setattr(
        small.vocabulary, "encode", lambda texts, prefixed: good([text.replace("o?", "o!") for text in texts], prefixed)
    )
    shown = preprocess_batch([said(("user", "Secret Zürich, hello?"), ("assistant", "fine"))], Options(), small)[0]
    assert isinstance(shown, RoundTripFailed)
    at = len("<|im_start|>user\nSecret Zürich, hello")
    assert str(shown) == (
        f"messages[0].content: the text at character {at} of the rendered text decodes to other text; "
        "the tokenizer has no ids for it, remove it"
    )
    assert (shown.message_index, shown.field) == (0, "content")


def test_half_a_surrogate_pair_is_refused_by_message() -> None:
    with pytest.raises(UnsupportedContent, match=r"^messages\[1\]\.content: .*\\ud83d"):
        preprocess(said(("user", "hi"), ("assistant", "x\ud83d")), Options(), model())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (Options(max_length=1), "max_length is 1; a row needs at least 2 tokens"),
        (Options(max_examples_per_conversation=0), "max_examples_per_conversation is 0; give at least 1"),
        (Options(part_weights=PartWeights(reasoning=-1.0)), "part_weights.reasoning is -1.0; give a finite number"),
        (Options(part_weights=PartWeights(tool_call=float("nan"))), "part_weights.tool_call is nan"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: Options, sentence: str) -> None:
    with pytest.raises(InvalidOption, match=sentence):
        preprocess(CHAT, options, model())


def test_a_template_of_a_client_is_refused_where_no_sandbox_runs() -> None:
    with pytest.raises(InvalidOption, match="can't be rendered here; register the template with a model"):
        preprocess(CHAT, Options(chat_template=CHATML), model())


def test_one_bad_conversation_harms_no_other_of_its_batch() -> None:
    chats = [
        CHAT,
        Conversation([]),
        said(("user", "x\ud83d"), ("assistant", "y")),
        said(("user", "q"), ("assistant", "a")),
    ]
    outcomes = preprocess_batch(chats, Options(), model())
    assert [type(outcome) for outcome in outcomes] == [
        PreprocessedConversation,
        EmptyConversation,
        UnsupportedContent,
        PreprocessedConversation,
    ]
    for chat, outcome in zip(chats, outcomes, strict=True):
        if isinstance(outcome, PreprocessedConversation):
            alone = preprocess(chat, Options(), model())
            assert [row.token_ids.tolist() for row in alone.examples] == [
                row.token_ids.tolist() for row in outcome.examples
            ]


def test_an_empty_batch_gives_nothing() -> None:
    assert preprocess_batch([], Options(), model()) == []


def test_characters_that_the_vocabulary_lacks_are_counted_in_a_warning() -> None:
    made = preprocess(said(("user", "\U0001f9ff"), ("assistant", "ok")), Options(), model(CHATML, "unigram"))
    assert any(
        line.startswith("1 token stands for text that the vocabulary does not have, so") for line in made.warnings
    )


TEXTS = st.text(alphabet="ab \n\té中👍e\u0301<|>_/imstarend", max_size=24) | st.sampled_from(
    ["<|im_end|>", "<think>x</think>", "\n\n", "", "</s>", "<|im_start|>assistant\n"]
)
MESSAGES = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXTS), min_size=1, max_size=6).filter(
    lambda pairs: any(role == "assistant" for role, _ in pairs)
)
OPTIONS = st.builds(
    Options,
    train_on=st.sampled_from([policy for policy in TrainOn if policy is not TrainOn.CUSTOMIZED]),
    max_length=st.none() | st.integers(2, 60),
    truncation=st.sampled_from(Truncation),
    tokenization=st.sampled_from(Tokenization),
    control_tokens=st.sampled_from([ControlTokens.ESCAPE, ControlTokens.ALLOW]),
    on_unextendable=st.sampled_from([OnUnextendable.SPLIT, OnUnextendable.LAST, OnUnextendable.AS_RENDERED]),
    train_on_eot=st.sampled_from(TrainOnEot),
    include_trailing_whitespace=st.booleans(),
    date=st.just(DATE),
)
SOME = ["byte_level", "sentence_piece_first", "unigram", "word_piece"]


@pytest.mark.parametrize("family", SOME)
@pytest.mark.parametrize("template", [CHATML, FORGETS])
@settings(max_examples=40, deadline=None)
@given(pairs=MESSAGES, options=OPTIONS)
def test_no_row_is_ever_empty_or_too_long_and_what_is_missing_is_said(
    template: str, family: str, pairs: list[tuple[str, str]], options: Options
) -> None:
    (outcome,) = preprocess_batch([said(*pairs)], options, model(template, family))
    if isinstance(outcome, PreprocessError):
        assert str(outcome)
        return
    assert outcome.examples
    for example in outcome.examples:
        assert len(example.token_ids) >= 2
        assert options.max_length is None or len(example.token_ids) <= options.max_length
        weights = example.target_weights()
        assert len(weights) == len(example.token_ids) - 1
        assert weights.sum() > 0
        assert example.target_bytes > 0


@pytest.mark.parametrize("family", SOME)
@settings(max_examples=40, deadline=None)
@given(pairs=MESSAGES)
def test_no_token_outside_assistant_turns_carries_weight(family: str, pairs: list[tuple[str, str]]) -> None:
    outcome = preprocess_batch([said(*pairs)], Options(max_length=None), model(CHATML, family))[0]
    if isinstance(outcome, NothingToTrain):
        return
    assert isinstance(outcome, PreprocessedConversation), outcome
    (example,) = outcome.examples
    vocabulary = model(CHATML, family).vocabulary
    end = vocabulary.table.by_content["<|im_end|>"].id
    weights = np.concatenate([[0.0], example.target_weights()])
    turn = -1
    for token, weight in zip(example.token_ids.tolist(), weights.tolist(), strict=True):
        if token == vocabulary.table.by_content["<|im_start|>"].id:
            turn += 1
            assert weight == 0
        if weight:
            assert pairs[turn][0] == "assistant"
        if token == end:
            assert weight == float(pairs[turn][0] == "assistant")
    assert turn == len(pairs) - 1


def ids_by_text(conversation: Conversation, options: Options, small: Model) -> dict[str, list[int]]:
    """The ids of every rendered text that the conversation gives under these options."""
    fits = fitted_batch([conversation], options, small)[0]
    if isinstance(fits, PreprocessError):
        return {}
    return {one.example.text.segments.whole: one.example.text.token_ids.tolist() for one in fits.examples}


@pytest.mark.parametrize("family", SOME)
@pytest.mark.parametrize("template", [CHATML, FORGETS])
@settings(max_examples=30, deadline=None)
@given(pairs=MESSAGES, trainable=st.lists(st.booleans(), min_size=6, max_size=6))
def test_what_is_trained_never_changes_the_ids(
    template: str, family: str, pairs: list[tuple[str, str]], trainable: list[bool]
) -> None:
    marked = said(*pairs, training=tuple(Training(one) for one in trainable[: len(pairs)]))
    choice = Options(max_length=None, on_unextendable=OnUnextendable.AS_RENDERED)
    expected = ids_by_text(marked, choice, model(template, family))
    for policy in TrainOn:
        for after in (OnUnextendable.AS_RENDERED, OnUnextendable.SPLIT):
            options = replace(choice, train_on=policy, on_unextendable=after)
            for text, ids in ids_by_text(marked, options, model(template, family)).items():
                assert ids == expected.setdefault(text, ids)


def test_a_reply_that_is_not_trained_begins_with_its_own_token_too() -> None:
    chat = said(("user", "a"), ("assistant", "\n\nso"), ("user", "b"), ("assistant", "\nso"))
    everything, last = (
        preprocess(chat, Options(train_on=policy), model()).examples[0].token_ids.tolist()
        for policy in (TrainOn.ALL_ASSISTANT_MESSAGES, TrainOn.LAST_ASSISTANT_MESSAGE)
    )
    assert everything == last
    prompt = model().vocabulary.encode(["assistant\n"], [False]).ids.tolist()
    joined = model().vocabulary.encode(["assistant\n\n\nso"], [False]).ids.tolist()
    assert joined[: len(prompt)] != prompt  # without a boundary the prompt would have other ids


@pytest.mark.parametrize("family", SOME)
@settings(max_examples=30, deadline=None)
@given(turns=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_splitting_loses_and_repeats_no_trained_message(family: str, turns: list[tuple[str, str]]) -> None:
    small = model(FORGETS, family)
    messages: list[Message] = []
    for index, (question, reply) in enumerate(turns):
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": reply, "reasoning_content": f"r{index}"})
    outcome = preprocess_batch([Conversation(messages)], Options(max_length=None), small)[0]
    assert isinstance(outcome, PreprocessedConversation), outcome
    end = small.vocabulary.table.by_content["<|im_end|>"].id
    trained_ends = 0
    for example in outcome.examples:
        trained_ends += int(((example.token_ids[1:] == end) & (example.target_weights() > 0)).sum())
    assert trained_ends == len(turns)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set what today is for rendering."""

    def set_today(date: str) -> None:
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz: datetime.tzinfo | None = None) -> Clock:
                return cls.fromisoformat(date).replace(tzinfo=tz)

        monkeypatch.setattr(layout.datetime, "datetime", Clock)

    return set_today


def ids_of(options: Options) -> list[int]:
    small = build_model("fresh", byte_level(), DATED, {})
    return list(preprocess(CHAT, options, small).examples[0].token_ids.tolist())


def test_a_pinned_date_gives_the_same_ids_whatever_today_is(clock: Callable[[str], None]) -> None:
    clock("2027-07-01")
    first = ids_of(Options(date=DATE))
    unpinned = ids_of(Options())
    clock("2031-12-24")
    assert ids_of(Options(date=DATE)) == first
    assert ids_of(Options()) != unpinned
