"""What a conversation costs, in Python calls, which are the same on every machine."""

from __future__ import annotations

import gc
import sys
from types import FrameType

import pytest

from tests.unit.masks.test_pipeline import CHATML, DATE, FORGETS, model
from turnloom.masks.domain.conversation import Conversation, Message
from turnloom.masks.domain.errors import HistoryDropped
from turnloom.masks.domain.options import OnUnextendable, Options
from turnloom.masks.pipeline import preprocess

WHOLE = Options(max_length=None, date=DATE, on_unextendable=OnUnextendable.AS_RENDERED)
SPLIT = Options(max_length=None, date=DATE, max_examples_per_conversation=1000)


def turns(count: int, reply: str = "I am fine.") -> Conversation:
    messages: list[Message] = []
    for index in range(count):
        messages.append({"role": "user", "content": f"question {index}"})
        messages.append({"role": "assistant", "content": reply, "reasoning_content": f"r{index}"})
    return Conversation(messages)


def calls(conversation: Conversation, options: Options, template: str) -> int:
    """Calls of functions, Python's and C's, that preprocessing makes once all is learned that can be of a shape."""
    small = model(template)
    for _ in range(6):
        preprocess(conversation, options, small)
    made = 0
    gc.collect()  # a collection would call what others left to be finalized
    gc.disable()

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal made
        made += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        preprocess(conversation, options, small)
    finally:
        sys.setprofile(before)
        gc.enable()
    return made


@pytest.mark.parametrize("template", [CHATML, FORGETS])
def test_a_thousand_messages_cost_per_message_what_a_hundred_do(template: str) -> None:
    few, many = (calls(turns(count), WHOLE, template) / count for count in (50, 500))
    assert 0 < many <= 1.5 * few


def test_a_split_costs_what_it_emits() -> None:
    def per_message(count: int) -> float:
        return calls(turns(count), SPLIT, FORGETS) / sum(2 * shown for shown in range(1, count + 1))

    assert 0 < per_message(60) <= 1.5 * per_message(20)


def test_a_split_is_bounded() -> None:
    bounded = Options(date=DATE, max_examples_per_conversation=8)
    with pytest.raises(HistoryDropped, match=r"needs 9 examples, more than max_examples_per_conversation 8"):
        preprocess(turns(9), bounded, model(FORGETS))


def test_a_long_message_makes_no_more_calls_than_a_short_one() -> None:
    short, long = (calls(turns(1, "so it goes. " * size), WHOLE, CHATML) for size in (100, 100_000))
    assert 0 < long <= 1.1 * short
