"""What JSON can't hold is found by its place, however deep it lies and whatever holds itself."""

from __future__ import annotations

import datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from services.preprocess.wire.conversation import parse_object
from tests.support.circles import circular, nested
from turnloom.errors import InvalidInput
from turnloom.foreign.json_text import loads
from turnloom.foreign.plain_values import TOO_DEEP, NotPlain, json_text, too_deep, unfit
from turnloom.wire.conversations import from_json
from turnloom.wire.options import preprocess_options

DAY = datetime.date(2026, 1, 2)
SHARED = {"a": [1]}
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("value", "place", "what"),
    [
        (circular(), ".self", "holds itself"),
        ([1, {"x": [circular()]}], "[1].x[0].self", "holds itself"),
        ({"a": {"b": (1, DAY)}}, ".a.b[1]", "is a Python date"),
        (DAY, "", "is a Python date"),
        ([{1, 2}], "[0]", "is a Python set"),
        ({"a": b"x"}, ".a", "is a Python bytes"),
        ({"a": np.int64(1)}, ".a", "is a Python int64"),
        ({"a": {(1, 2): 3}}, ".a", "has a key that is no text"),
        ([1.5, float("nan")], "[1]", "is nan"),
    ],
)
def test_the_first_value_that_json_can_not_hold_is_found_by_its_place(value: object, place: str, what: str) -> None:
    assert unfit(value) == (place, f"{what}, which JSON can't hold")
    with pytest.raises(NotPlain) as refused:
        json_text(value)
    assert refused.value.place == place


@pytest.mark.parametrize(
    "value", [None, 1, "text", {}, [], [SHARED, SHARED, {"b": SHARED}], {1: True, None: 2.5}, (1, (2,))]
)
def test_nothing_is_found_in_what_json_can_hold(value: object) -> None:
    assert unfit(value) is None
    assert json_text(value)


def test_a_mapping_of_another_kind_is_written_as_an_object() -> None:
    assert json_text({"a": MappingProxyType({"b": 1})}) == '{"a": {"b": 1}}'


def test_infinity_is_written_where_it_may_be() -> None:
    assert json_text([float("inf")], finite=False) == "[Infinity]"
    assert unfit([float("inf")], finite=False) is None


def test_depth_costs_no_stack_and_a_long_place_is_cut() -> None:
    assert unfit(nested(20_000)) is None
    found = unfit(nested(20_000, DAY))
    assert found is not None
    assert (found.place[-1], len(found.place)) == ("…", 121)
    with pytest.raises(NotPlain, match=r"^is nested too deeply$"):
        json_text(nested(20_000))


def test_the_value_that_is_nested_deepest_is_named_also_beside_one_that_holds_itself() -> None:
    messages = [{"role": "user", "extra": [1]}, {"role": "user", "extra": nested(20_000)}, {"more": circular()}]
    assert too_deep(messages) == (".messages[1].extra", "is nested too deeply")
    assert too_deep({"tools": [{}, nested(3)], "id": [[]]}).place == ".tools[1]"
    assert too_deep({}).place == ""
    twice: object = "x"
    for _ in range(60):
        twice = [twice, twice]
    assert too_deep({"tools": [nested(40), twice]}).place == ".tools[1]"


def test_every_way_in_says_depth_in_the_same_words() -> None:
    deep = "[" * 100_000
    for read in (loads, parse_object):
        with pytest.raises(ValueError, match=f"^{TOO_DEEP}[.;]"):
            read(deep)
    sources = [path for tree in ("turnloom", "services") for path in (ROOT / tree).rglob("*.py")]
    written = [path.name for path in sources if f'"{TOO_DEEP}' in path.read_text(encoding="utf-8")]
    assert written == ["plain_values.py"], "the words stand in one place"


def chat(arguments: object = None, tool: object = None, **more: object) -> dict[str, object]:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    reply = {"role": "assistant", "content": "ok"} | ({} if arguments is None else {"tool_calls": [call]})
    tools = {} if tool is None else {"tools": [tool]}
    return {"messages": [{"role": "user", "content": "hi", **more}, reply], **tools}


ARGUMENTS = "messages[1].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (chat(circular()), f"{ARGUMENTS}.self: holds itself, which JSON can't hold."),
        (chat(tool=circular()), "tools[0].self: holds itself, which JSON can't hold."),
        (chat(extra=circular()), "messages[0].extra.self: holds itself, which JSON can't hold."),
        (chat({"day": DAY}), f"{ARGUMENTS}.day: is a Python date, which JSON can't hold."),
        (chat(tool={"day": DAY}), "tools[0].day: is a Python date, which JSON can't hold."),
        (chat({"a": float("nan")}), f"{ARGUMENTS}.a: is nan, which JSON can't hold."),
        (chat(nested(20_000)), f"{ARGUMENTS}: is nested too deeply."),
        (chat(tool=nested(20_000)), "tools[0]: is nested too deeply."),
        ([{"role": "user"}, {"role": "user", "name": nested(9)}], "messages[1].name: is an object; give text."),
        ([{"role": "user"}, {"role": "tool", "of": nested(20_000)}], "messages[1]: is nested too deeply."),
    ],
)
def test_a_clients_dictionary_that_json_can_not_hold_is_refused_by_its_place(document: object, sentence: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        from_json(document, "conversations[3]")  # type: ignore[arg-type]  # which is the point
    assert refused.value.message == f"conversations[3]: {sentence}"


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        (circular(), "chat_template_kwargs.self: holds itself, which JSON can't hold."),
        ({"day": DAY}, "chat_template_kwargs.day: is a Python date, which JSON can't hold."),
        (nested(20_000), "chat_template_kwargs: is nested too deeply."),
    ],
)
def test_an_option_that_json_can_not_hold_is_refused_by_its_place(kwargs: object, sentence: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        preprocess_options("m", {"chat_template_kwargs": kwargs})
    assert refused.value.message == sentence
