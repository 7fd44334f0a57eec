from __future__ import annotations

from functools import cache

import pytest

from tests.support.small_tokenizers import byte_level, word_piece
from turnloom.masks.domain.conversation import Conversation, Training
from turnloom.masks.domain.errors import EmptyConversation
from turnloom.masks.domain.options import Options, TrainOn, Truncation
from turnloom.masks.inspect.preview import PreviewExample, preview
from turnloom.masks.model import Model, build_model
from turnloom.masks.pipeline import preprocess

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content and loop.last %}<think>\n{{ message.reasoning_content }}\n</think>\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def model(tokenizer_json: str) -> Model:
    return build_model("small", tokenizer_json, TEMPLATE, {})


CHAT = Conversation(
    [
        {"role": "user", "content": "x <|im_end|>"},
        {"role": "assistant", "content": "yes 👍", "reasoning_content": "hm"},
    ]
)


def of_kind(example: PreviewExample, kind: str, index: int | None) -> str:
    return "".join(token.text for token in example.tokens if (token.kind, token.message_index) == (kind, index))


def test_every_token_is_shown_with_its_author_and_kind() -> None:
    (example,) = preview(CHAT, Options(), model(byte_level())).examples
    assert of_kind(example, "content", 0) == "x <|im_end|>"
    assert of_kind(example, "reasoning", 1) == "hm"
    assert of_kind(example, "scaffold", 1) == "<think>\n\n</think>\n"
    assert of_kind(example, "eot", 1) == "<|im_end|>"
    assert of_kind(example, "header", None) == "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n\n"
    assert {token.role for token in example.tokens if token.message_index == 1} == {"assistant"}


def test_weights_and_ids_are_those_of_preprocess() -> None:
    (shown,) = preview(CHAT, Options(), model(byte_level())).examples
    (made,) = preprocess(CHAT, Options(), model(byte_level())).examples
    assert [token.id for token in shown.tokens] == made.token_ids.tolist()
    assert [token.weight for token in shown.tokens] == [0.0, *made.target_weights().tolist()]
    assert shown.target_bytes == made.target_bytes


def test_bytes_that_are_no_whole_character_are_shown_as_such() -> None:
    (example,) = preview(CHAT, Options(), model(byte_level())).examples
    assert any(token.text.startswith("\\x") for token in example.tokens)


def test_escaped_control_tokens_are_named() -> None:
    (shown,) = preview(CHAT, Options(), model(byte_level())).examples
    assert [(span.message_index, span.offset, span.text) for span in shown.escaped] == [(0, 19, "<|im_end|>")]


def test_each_example_names_only_what_it_shows_and_where() -> None:
    later = [
        {"role": "user", "content": "<|im_end|>?"},
        {"role": "assistant", "content": "so", "reasoning_content": "h"},
    ]
    shown = preview(Conversation([*CHAT.messages, *later]), Options(), model(byte_level())).examples
    assert [[span.message_index for span in example.escaped] for example in shown] == [[0], [0, 2]]
    for example in shown:
        for span in example.escaped:
            assert example.rendered_text[span.offset :].startswith(span.text)


@pytest.mark.parametrize("truncation", [Truncation.RIGHT, Truncation.LEFT])
def test_truncation_shows_what_is_left(truncation: Truncation) -> None:
    options = Options(max_length=12, truncation=truncation, train_on=TrainOn.ALL_TOKENS)
    (shown,) = preview(CHAT, options, model(byte_level())).examples
    (made,) = preprocess(CHAT, options, model(byte_level())).examples
    assert [token.id for token in shown.tokens] == made.token_ids.tolist()
    assert shown.truncated_tokens == made.truncated_tokens > 0
    assert ("eot" in {token.kind for token in shown.tokens}) == (truncation is Truncation.LEFT)


def test_a_split_shows_every_example_with_its_part() -> None:
    messages = [*CHAT.messages, {"role": "user", "content": "more"}, {"role": "assistant", "content": "no"}]
    shown = preview(Conversation(messages), Options(), model(byte_level()))
    assert [example.part for example in shown.examples] == [0, 1]
    assert shown.examples[0].rendered_text.endswith("yes 👍<|im_end|>\n")


def test_dropped_turns_keep_the_positions_of_the_messages_that_stay() -> None:
    turns = [{"role": role, "content": f"{role} {index}"} for index in range(4) for role in ("user", "assistant")]
    (whole,) = preview(Conversation(turns), Options(), model(byte_level())).examples
    options = Options(max_length=len(whole.tokens) - 1, truncation=Truncation.DROP_TURNS)
    (example,) = preview(Conversation(turns), options, model(byte_level())).examples
    assert {token.message_index for token in example.tokens} == {None, 2, 3, 4, 5, 6, 7}
    assert of_kind(example, "content", 7) == "assistant 3"


def test_a_row_without_weight_is_shown_with_its_warning() -> None:
    silent = Conversation(CHAT.messages, training=(Training(), Training(weight=0.0)))
    shown = preview(silent, Options(), model(byte_level()))
    assert not any(token.weight for token in shown.examples[0].tokens)
    assert shown.warnings[-1].startswith("one example is left out: no token has weight")


def test_a_lossy_vocabulary_shows_its_entries() -> None:
    (example,) = preview(CHAT, Options(), model(word_piece())).examples
    assert "[UNK]" in {token.text for token in example.tokens}
    assert of_kind(example, "eot", 1) == "<|im_end|>"


def test_what_can_t_be_preprocessed_can_t_be_previewed() -> None:
    with pytest.raises(EmptyConversation):
        preview(Conversation([]), Options(), model(byte_level()))
