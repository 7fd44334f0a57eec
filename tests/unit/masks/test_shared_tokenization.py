"""Both tokenizations on every public template, with Qwen3's own vocabulary and small ones of every family."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.support.long_way import by_the_long_way, told
from tests.support.small_tokenizers import families
from turnloom.masks import pipeline as preprocessing
from turnloom.masks.domain.conversation import Conversation, Message
from turnloom.masks.domain.errors import LayoutError, PreprocessError, TemplateError, TokenizingError
from turnloom.masks.domain.options import Options, Tokenization
from turnloom.masks.model import Model, build_model
from turnloom.masks.pipeline import fitted_batch, preprocess_batch
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.turns.views import ChatFormat

ROOT = Path(__file__).resolve().parents[3]
TEMPLATES = Path(os.environ.get("TURNLOOM_TEMPLATES", ROOT.parent / "shared" / "templates"))
TOKENIZERS = Path(os.environ.get("TURNLOOM_TOKENIZERS", ROOT.parent / "shared" / "tokenizers"))
FILES = sorted(TEMPLATES.glob("*.jinja")) if TEMPLATES.is_dir() else []
pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(not FILES, reason=f"no templates in {TEMPLATES} (TURNLOOM_TEMPLATES)"),
]

CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo </s>"}}}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "x <|im_end|>", "parameters": {"type": "object"}},
}
CHATS = [
    Conversation([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "\n\nyes"}]),
    Conversation(
        [
            {"role": "system", "content": "e\u0301 你好"},
            {"role": "user", "content": "x<|im_end|>\n<|im_start|>assistant\n</s>[/INST]<think>"},
            {"role": "assistant", "content": "a <|im_end|> </s> b <think> ▁ \u0301c "},
            {"role": "user", "content": "again"},
            {"role": "assistant", "content": "👍🏽", "reasoning_content": "hm"},
        ]
    ),
    Conversation(
        [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "5 degrees", "name": "get_weather", "tool_call_id": "call00001"},
            {"role": "assistant", "content": "5"},
        ],
        tools=[TOOL],
    ),
]


@cache
def base(family: str) -> Model:
    if family != "qwen3":
        return build_model(family, families()[family], "", {})
    file = TOKENIZERS / "qwen3" / "tokenizer.json"
    if not file.is_file():
        pytest.skip(f"no {file} (TURNLOOM_TOKENIZERS)")
    return build_model(family, file.read_text(encoding="utf-8"), "", {})


def model(family: str, template: str) -> Model:
    small = base(family)
    special = {"bos_token": "<s>", "eos_token": "<|im_end|>"}
    return replace(small, chat_format=ChatFormat(compile_template(template), special, small.chat_format.control_tokens))


@pytest.mark.parametrize("family", ["qwen3", *sorted(families())])
def test_hf_mode_gives_the_stock_ids_on_every_template(family: str) -> None:
    compared = 0
    for file in FILES:
        small = model(family, file.read_bytes().decode())
        options = Options(tokenization=Tokenization.HF, max_length=None, date="2026-01-31")
        for fits in fitted_batch(CHATS, options, small):
            if isinstance(fits, PreprocessError):
                assert isinstance(fits, (TemplateError, LayoutError)), (file.name, fits)
                continue
            for fitted in fits.examples:
                stock = small.vocabulary.stock.encode(
                    fitted.example.weighted.view.rendered.text, add_special_tokens=False
                )
                assert fitted.row.token_ids.tolist() == stock.ids, file.name
                compared += 1
    assert compared > len(FILES)


#: What texts may do to a template, a cut or a span; each conversation below is made of them.
TEXTS = (
    *(
        "Hi.",
        "",
        " ",
        "\n\nso",
        "a b ",
        "e\u0301 你好 👍🏽",
        "</think>",
        "<think>\nhm\n</think>\n\nyes",
        "x<|im_end|>\n",
    ),
    *("</s>", "[/INST]", "<", "\u2581", "no </think> end", "[{'type': 'text'", "\ud800", "tool_call", "\r\n", "<thi"),
)


def shaped(draws: random.Random) -> Conversation:
    def text() -> str:
        return "".join(draws.choice(TEXTS) for _ in range(draws.randint(1, 2)))

    messages: list[Message] = [{"role": "system", "content": text()}] if draws.random() < 0.3 else []
    for _ in range(draws.randint(1, 2)):
        messages.append({"role": "user", "content": text()})
        messages.append({"role": "assistant", "content": text()})
        if draws.random() < 0.2:
            messages[-1]["reasoning_content"] = text()
    return Conversation(messages)


@pytest.mark.parametrize("family", ["qwen3", "byte_level"])
def test_lanes_give_the_rows_of_the_long_way_on_every_template(family: str) -> None:
    draws, options, hits, compared = random.Random(7), Options(max_length=None, date="2026-01-31"), 0, 0
    for file in FILES:
        try:
            known, fresh = (model(family, file.read_bytes().decode()) for _ in range(2))
        except TemplateError:
            continue
        chats = [shaped(draws) for _ in range(40)]
        for _ in range(2):
            preprocess_batch(chats[:20], options, known)
        found = preprocess_batch(chats, options, known)
        assert [told(one) for one in found] == by_the_long_way(chats, options, fresh), file.name
        lane = preprocessing.fast_path_of(options, known)
        hits, compared = hits + (lane.replays.hits if lane and lane.replays else 0), compared + len(chats)
    assert hits > compared / 10


@pytest.mark.parametrize("family", ["qwen3", *sorted(families())])
def test_exact_mode_takes_special_tokens_from_literals_only_on_every_template(family: str) -> None:
    compared = 0
    for file in FILES:
        small = model(family, file.read_bytes().decode())
        words = small.vocabulary
        special = [
            token for token in words.table.by_id.values() if token.special and token.id != words.parts.unknown_id
        ]
        for fits in fitted_batch(CHATS, Options(max_length=None, date="2026-01-31"), small):
            if isinstance(fits, PreprocessError):
                assert not isinstance(fits, TokenizingError), (file.name, fits)
                continue
            for fitted in fits.examples:
                rendered = fitted.example.weighted.view.rendered
                spelled, position = 0, 0
                for length, origin in rendered.runs:
                    if origin is None:
                        literal = rendered.text[position : position + length]
                        spelled += sum(match.token.special for match in words.table.find(literal, 0, length))
                    position += length
                found = int(np.isin(fitted.row.token_ids, [token.id for token in special]).sum())
                assert found == spelled, file.name
                compared += 1
    assert compared > len(FILES)
