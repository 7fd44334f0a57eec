from __future__ import annotations

import pytest

from services.preprocess.domain.limits import MAX_DISPLAY_NAME_BYTES
from turnloom.display.names import MAX_BYTES, display_name
from turnloom.display.visible import controls


def test_the_server_takes_as_much() -> None:
    assert MAX_BYTES == MAX_DISPLAY_NAME_BYTES


@pytest.mark.parametrize("text", ["chats.jsonl", "x" * 128, "\u00e9" * 64, "HuggingFaceH4/no_robots"])
def test_a_name_that_fits_stays(text: str) -> None:
    assert display_name(text) == text


@pytest.mark.parametrize("text", ["x" * 129, "\u8bdd" * 43, "a" + "\N{GRINNING FACE}" * 300, "a\nb\x1b[31m\u202e" * 40])
@pytest.mark.parametrize("ending", ["", " (test)"])
def test_a_longer_one_keeps_its_beginning_its_end_and_the_ending(text: str, ending: str) -> None:
    name = display_name(text, ending)
    assert len(name.encode()) <= MAX_BYTES
    assert len(name.encode()) > MAX_BYTES - 10
    assert name.startswith(text[0])
    assert name.endswith(ending)
    assert name.count("...") == 1
    assert controls(name) == []


def test_what_no_text_holds_is_shown_by_its_escape() -> None:
    assert display_name("caf\udce9\t\n\x1b.jsonl") == "caf\\udce9\\t\\n\\x1b.jsonl"
