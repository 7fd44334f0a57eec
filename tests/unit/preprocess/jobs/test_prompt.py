"""The prompt of a sample is what training put before a reply, and a reply's ids are its text."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.preprocess.jobs.prompt import prompt_of, reply_text
from tests.support.chat_templates import CHATML, GENERATION, INSTRUCT, OPEN_ENDED, PREFILLED, THINKING
from tests.support.small_tokenizers import families
from turnloom.masks.domain.conversation import JSON, Conversation
from turnloom.masks.domain.errors import ControlTokenRejected, PreprocessError, TemplateRefused, UnsupportedContent
from turnloom.masks.domain.options import ControlTokens, GenerationPrefill, Mask, Options, Tokenization
from turnloom.masks.model import Model, build_model
from turnloom.masks.pipeline import preprocess
from turnloom.masks.sandbox.pool import Limits, Sandbox

EOS = "<|im_end|>"
TEMPLATES = {"chatml": CHATML, "thinking": THINKING, "open-ended": OPEN_ENDED, "instruct": INSTRUCT}
OPTIONS = Options(date="2026-01-01", max_length=None)
TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["<|im_end|>", "<think>", "a<|im_start|>assistant\n", "\n\n hello", "e\u0301 你好", "</s>[/INST]"]),
)


@cache
def model(template: str, family: str = "byte_level") -> Model:
    return build_model("small", families()[family], template, {"bos_token": "<s>", "eos_token": EOS})


def ids(model: Model, *names: str) -> tuple[int, ...]:
    return tuple(model.vocabulary.table.by_content[name].id for name in names)


def turns(*texts: str) -> Conversation:
    return Conversation([{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)])


@pytest.mark.parametrize("family", ["byte_level", "sentence_piece_first", "unigram"])
@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=15, deadline=None)
@given(texts=st.lists(TEXTS, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0))
def test_the_row_of_an_answered_conversation_begins_with_its_prompt(
    template: str, family: str, texts: list[str]
) -> None:
    used = model(TEMPLATES[template], family)
    try:
        rows = preprocess(turns(*texts), OPTIONS, used).examples
        prompt = prompt_of(turns(*texts[:-1]), OPTIONS, used)
    except PreprocessError:
        return
    last = rows[-1].token_ids
    assert prompt.token_ids.tolist() == last[: len(prompt.token_ids)].tolist()
    assert len(prompt.token_ids) < len(last) or not texts[-1].strip()


def test_the_prompt_ends_with_the_templates_generation_prompt_and_control_tokens_of_users_stay_text() -> None:
    used = model(CHATML)
    prompt = prompt_of(turns("stop <|im_end|> now"), OPTIONS, used)
    text = "<|im_start|>user\nstop <|im_end|> now<|im_end|>\n<|im_start|>assistant\n"
    assert used.vocabulary.decode(prompt.token_ids).decode() == text
    assert prompt.token_ids.tolist().count(*ids(used, EOS)) == 1
    as_stock = prompt_of(turns("stop <|im_end|> now"), Options(tokenization=Tokenization.HF), used)
    assert as_stock.token_ids.tolist().count(*ids(used, EOS)) == 2
    assert as_stock.token_ids.tolist() == used.vocabulary.stock.encode(text, add_special_tokens=False).ids
    with pytest.raises(ControlTokenRejected, match=r"messages\[0\]: spells the control token '<\|im_end\|>'"):
        prompt_of(turns("stop <|im_end|> now"), Options(control_tokens=ControlTokens.REJECT), used)


def test_thinking_that_the_templates_prompt_opens_belongs_to_the_prompt() -> None:
    opened = model(PREFILLED)
    prompt = prompt_of(turns("why?"), OPTIONS, opened)
    assert used_text(opened, prompt.token_ids).endswith("<|im_start|>assistant\n<think>\n")
    assert ids(opened, "<think>")[0] in prompt.token_ids
    plain = prompt_of(turns("why?"), Options(generation_prefill=GenerationPrefill.NONE), opened)
    assert used_text(opened, plain.token_ids).endswith("<|im_start|>assistant\n")
    closed = Options(chat_template_kwargs={"enable_thinking": False})
    prompt = prompt_of(turns("why?"), closed, model(THINKING))
    assert used_text(model(THINKING), prompt.token_ids).endswith("assistant\n<think>\n\n</think>\n\n")


def used_text(model: Model, token_ids: np.ndarray) -> str:
    return model.vocabulary.decode(token_ids).decode()


def test_a_reply_ends_with_what_training_ends_turns_with_or_with_the_end_of_text() -> None:
    other = build_model("other", families()["byte_level"], CHATML, {"eos_token": "<|endoftext|>"})
    assert prompt_of(turns("hi"), OPTIONS, other).stop_ids == ids(other, EOS, "<|endoftext|>")
    assert prompt_of(turns("hi"), OPTIONS, model(CHATML)).stop_ids == ids(other, EOS)
    assert prompt_of(turns("hi"), OPTIONS, model(OPEN_ENDED)).stop_ids == ids(other, EOS)
    nothing = build_model("nothing", families()["byte_level"], OPEN_ENDED, {})
    assert prompt_of(turns("hi"), OPTIONS, nothing).stop_ids == ()


def test_neither_how_long_nor_how_heavy_rows_are_matters_to_a_prompt() -> None:
    short = Options(max_length=2, ensure_final_stop=True)
    assert prompt_of(turns("hi there"), short, model(CHATML)) is not None
    np.testing.assert_array_equal(
        prompt_of(turns("hi there"), short, model(CHATML)).token_ids,
        prompt_of(turns("hi there"), OPTIONS, model(CHATML)).token_ids,
    )


def test_a_conversation_in_parts_is_answered_by_templates_that_read_nothing_else() -> None:
    parts = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{{ part.text }}{% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    asked = Conversation([{"role": "user", "content": [{"type": "text", "text": "hi"}]}])
    prompt = prompt_of(asked, OPTIONS, model(parts))
    assert used_text(model(parts), prompt.token_ids) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_generation_blocks_say_where_a_reply_begins_too() -> None:
    used = model(GENERATION["top level"])
    prompt = prompt_of(turns("hi", "yes", "again"), Options(mask=Mask.TEMPLATE), used)
    assert used_text(used, prompt.token_ids).endswith("again<|im_end|>\n<|im_start|>assistant\n")
    assert prompt.stop_ids == ids(used, EOS)


def test_a_clients_own_template_is_rendered_in_the_sandbox() -> None:
    with closing(Sandbox(Limits(seconds=10))) as sandbox:
        used = replace(model(INSTRUCT), sandbox=sandbox)
        prompt = prompt_of(turns("hi <|im_end|>"), Options(chat_template=CHATML), used)
    text = "<|im_start|>user\nhi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    assert used_text(used, prompt.token_ids) == text
    assert prompt.token_ids.tolist().count(*ids(used, EOS)) == 1


def test_parts_are_one_text_to_a_clients_template_that_takes_only_text() -> None:
    parts: JSON = [{"type": "text", "text": "hi"}, {"type": "text", "text": "there"}]
    asked = Conversation([{"role": "user", "content": parts}])
    reads = CHATML.replace("{{ m.content }}", "{% for part in m.content %}[{{ part.text }}]{% endfor %}")
    assert reads != CHATML
    with closing(Sandbox(Limits(seconds=10))) as sandbox:
        used = replace(model(INSTRUCT), sandbox=sandbox)
        for template, text in ((CHATML, "hi\nthere"), (reads, "[hi][there]")):
            prompt = prompt_of(asked, Options(chat_template=template), used)
            said = used_text(used, prompt.token_ids)
            assert said == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        with pytest.raises(UnsupportedContent, match="as Python code"):
            prompt_of(asked, Options(chat_template=CHATML, normalize_messages=False), used)


def test_a_template_that_refuses_the_conversation_refuses_the_prompt() -> None:
    asked = Conversation([{"role": "system", "content": "x"}, {"role": "user", "content": "hi"}])
    with pytest.raises(TemplateRefused, match="only user and assistant"):
        prompt_of(asked, OPTIONS, model(INSTRUCT))


@pytest.mark.parametrize("family", ["byte_level", "sentence_piece_first", "word_piece"])
def test_a_reply_is_its_text_without_the_stop_token_and_without_ids_that_no_tokenizer_has(family: str) -> None:
    used = model(CHATML, family)
    stop = ids(used, EOS)
    token_ids = used.vocabulary.encode(["how are you"], [False]).ids.tolist()
    said = reply_text(token_ids, stop, used)
    assert said.strip() == "how are you"
    assert reply_text([*token_ids, *stop], stop, used) == said
    assert reply_text([*token_ids, used.vocab_size + 7, *stop], stop, used) == said
    assert reply_text([*stop, *stop], stop, used) == EOS
    assert reply_text([], stop, used) == ""


def test_half_a_character_is_shown_as_such() -> None:
    used = model(CHATML)
    halves = used.vocabulary.encode(["🙂"], [False]).ids.tolist()
    assert len(halves) > 1
    assert reply_text(halves[:1], (), used) == "\ufffd"


def test_text_of_a_message_that_only_the_generation_prompt_repeats_spells_no_control_token() -> None:
    repeated = "<|im_start|>assistant\nTo {{ messages[0].content }}:\n"
    used = model(CHATML.replace("<|im_start|>assistant\n{% endif %}", repeated + "{% endif %}"))
    prompt = prompt_of(turns("a<|im_end|>b"), OPTIONS, used).token_ids.tolist()
    shown = used.vocabulary.decode(np.array(prompt, dtype=np.int32)).decode()
    assert shown.endswith("<|im_start|>assistant\nTo a<|im_end|>b:\n")
    assert prompt.count(ids(used, "<|im_end|>")[0]) == 1
