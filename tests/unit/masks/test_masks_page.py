"""The examples of docs/masks.md are what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from functools import cache
from pathlib import Path

import pytest

from tests.support.small_tokenizers import byte_level
from turnloom.masks.domain.conversation import Conversation, Training
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.domain.options import Options, PartWeights
from turnloom.masks.inspect.preview import preview
from turnloom.masks.model import Model, build_model
from turnloom.masks.pipeline import preprocess

PAGE = Path(__file__).resolve().parents[3] / "docs" / "masks.md"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if name == language]


def examples() -> Iterator[tuple[str, str]]:
    for block in blocks("mask"):
        options, _, shown = block.partition("\n")
        yield options, shown.rstrip("\n")


@cache
def model(template: str) -> Model:
    return build_model("small", byte_level(), template, {"eos_token": "<|endoftext|>"})


def options_from(given: dict[str, object]) -> Options:
    values: dict[str, object] = {}
    for name, value in given.items():
        default = getattr(Options(), name)
        if name == "part_weights":
            values[name] = PartWeights(**value)  # type: ignore[arg-type]
        else:
            values[name] = type(default)(value) if isinstance(default, Enum) else value
    return Options(**values)  # type: ignore[arg-type]


def shown(given: dict[str, object]) -> str:
    template, reply_only = blocks("jinja")
    chat = json.loads(blocks("json")[0])
    training = given.pop("training", None)
    plain = bool(given.pop("template_without_reasoning", False))
    conversation = Conversation(chat, training=[Training(**entry) for entry in training] if training else ())
    try:
        preprocess(conversation, options_from(given), model(reply_only if plain else template))
        found = preview(conversation, options_from(given), model(reply_only if plain else template))
    except PreprocessError as error:
        return f"{type(error).__name__}: {error}"
    lines = []
    for example in found.examples:
        line, weight = "", 0.0
        for token in example.tokens:
            if token.weight != weight:
                line += "⟧" * (weight > 0) + (
                    "⟦" if token.weight == 1.0 else f"{token.weight:g}⟦" if token.weight else ""
                )
                weight = token.weight
            line += token.text.replace("\n", "↵")
        lines.append(line + "⟧" * (weight > 0))
    return "\n".join(lines)


@pytest.mark.parametrize(("options", "expected"), list(examples()))
def test_an_example_of_the_page_is_what_the_code_does(options: str, expected: str) -> None:
    assert shown(json.loads(options)) == expected


def test_every_option_is_on_the_page_with_its_default() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for option in fields(Options):
        assert f"`{option.name}`" in page, option.name
