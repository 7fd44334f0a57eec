"""Filters of rows: what each operator says of each kind of value, and what is refused."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from turnloom.errors import InvalidInput
from turnloom.foreign.json_text import JSON
from turnloom.reading.chat_formats import Format
from turnloom.reading.filters import Condition, RowFilter, characters
from turnloom.reading.rows import RawRow
from turnloom.reading.selecting import Choice, Looking
from turnloom.reading.splitting import split

ROW: JSON = {
    "lang": "en",
    "score": 4,
    "share": 0.5,
    "cell": "12",
    "good": True,
    "none": None,
    "day": "2026-03-01",
    "tags": ["code", "math", 7],
    "meta": {"source": "forum", "a.b": 1},
    "a.b": " x ",
    "number": "12a",
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("lang = en", True), ("lang=en", True), ("lang = de", False), ("lang != de", True), ("lang ~ n", True),
        ("lang ~ x", False), ("score = 4", True), ("score = 4.0", True), ("score >= 4", True), ("score > 4", False),
        ("score < 4.5", True), ("score = four", False), ("score != four", True), ("score > four", False),
        ('score = "4"', False), ("share <= 0.5", True), ("cell = 12", True), ("cell > 9", True), ("cell < 9", False),
        ('cell > "9"', False), ("number > 9", False), ("good = true", True), ("good != false", True),
        ("good = 1", False), ('good = "true"', False), ("none = null", True), ("none != null", False),
        ("gone = null", True), ("gone != null", False), ("gone = en", False), ("gone != en", True), ("gone > 1", False),
        ("gone ~ x", False), ("lang = null", False), ("day >= 2026-02-28", True), ("day < 2026-02-28", False),
        ("tags ~ code", True), ("tags ~ 7", True), ("tags ~ cod", False), ("tags = code", False),
        ("tags != code", True), ("lang != = en", True),
        ("meta.source = forum", True), ("meta.gone = null", True), ("lang.gone = null", True), ("meta > 1", False),
        ('"a.b" = " x "', True), ('"a.b" ~ x', True), ("a.b = null", True), ("lang = ", False), ('lang != ""', True),
    ],
)  # fmt: skip
def test_conditions_say_what_the_page_says(text: str, holds: bool) -> None:
    assert Condition.parse(text).holds(ROW) is holds


def test_a_row_without_columns_has_none_of_that_name() -> None:
    assert not Condition.parse("lang = en").holds([{"role": "user"}])
    assert Condition.parse("lang = null").holds([{"role": "user"}])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lang", "'lang' can't be read as a condition."),
        ("= en", "'= en' can't be read as a condition."),
        ("", "'' can't be read as a condition."),
        ("score > null", "'score > null': null is neither less nor greater than anything."),
        ("score >", "'score >': nothing is neither less nor greater than anything."),
        ('lang = "en', "'lang = \"en': \"en is no JSON string."),
        ('lang = "e" n', '\'lang = "e" n\': "e" n is no JSON string.'),
        ("lang == en", "'lang == en': == is no operator; before a VALUE that begins with = put a blank."),
        ("lang=~en", "'lang=~en': =~ is no operator; before a VALUE that begins with ~ put a blank."),
        ("x = " + "y" * 2000, "has 2004 bytes; give 1024 at most."),
    ],
)
def test_what_is_no_condition_is_refused_with_its_field_and_the_form(text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        RowFilter(where=("a = b", text)).check("header.source.filter")
    assert refused.value.message == sentence
    assert refused.value.field == "header.source.filter.where[1]"
    assert "COLUMN OPERATOR VALUE" in refused.value.hint


def test_bounds_that_nothing_can_meet_and_too_many_conditions_are_refused() -> None:
    with pytest.raises(InvalidInput, match="takes from 5 to 3 messages, which nothing can have") as refused:
        RowFilter(min_messages=5, max_messages=3).check()
    assert refused.value.field == "filter.min_messages"
    with pytest.raises(InvalidInput, match="has 33 conditions; give 32 at most"):
        RowFilter(where=("a = b",) * 33).check()


def test_lengths_count_messages_and_the_characters_of_their_content() -> None:
    parts = [{"type": "text", "text": "ab"}, {"type": "text", "text": "\u00fc"}]
    document = {"messages": [{"role": "user", "content": "four"}, {"role": "assistant", "content": parts}, 5]}
    assert [characters(message) for message in document["messages"]] == [4, 3, 0]
    for asked, wanted in (
        ({"min_messages": 3}, True), ({"min_messages": 4}, False), ({"max_messages": 3}, True),
        ({"max_messages": 2}, False), ({"min_characters": 7, "max_characters": 7}, True),
        ({"min_characters": 8}, False), ({"max_characters": 6}, False), ({}, True),
    ):  # fmt: skip
        assert RowFilter(**asked).check().document(document) is wanted, asked
    assert RowFilter(min_messages=9).check().document({"messages": "broken"}), "a bad row is left to be reported"


SCALARS = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "ab", "b", "1", "-2", "null", "x=y"])
)
ORDERS = {"<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}


@example(value="-2", wanted=-2)
@example(value="null", wanted=None)
@given(value=SCALARS, wanted=SCALARS)
def test_equality_is_that_of_python_for_values_of_one_type_and_unequal_is_its_opposite(
    value: JSON, wanted: JSON
) -> None:
    text = json.dumps(wanted)
    equal = type(value) is type(wanted) and value == wanted
    if isinstance(value, str) and wanted is not None:  # a cell of a CSV equals the number that it spells
        equal = value == (wanted if isinstance(wanted, str) else text)
    assert Condition.parse(f"x = {text}").holds({"x": value}) is equal
    assert Condition.parse(f"x != {text}").holds({"x": value}) is not equal


@given(
    value=st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    wanted=st.integers(),
    sign=st.sampled_from(sorted(ORDERS)),
)
def test_numbers_are_ordered_as_python_orders_them(value: float, wanted: int, sign: str) -> None:
    expected = getattr(float if isinstance(value, float) else int, ORDERS[sign])(value, wanted)
    assert Condition.parse(f"x {sign} {wanted}").holds({"x": value}) is expected


@given(column=st.text(min_size=1, max_size=20), value=st.text(max_size=20))
def test_any_column_and_any_text_can_be_named_in_quotes(column: str, value: str) -> None:
    condition = Condition.parse(f"{json.dumps(column)} = {json.dumps(value)}")
    assert condition.holds({column: value})
    assert not condition.holds({column: value + "x"})


@given(st.text(max_size=40))
def test_no_text_raises_anything_but_a_refusal(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        Condition.parse(text).holds(ROW)


ROWS = st.lists(
    st.fixed_dictionaries(
        {"lang": st.sampled_from(["en", "de", None]), "score": st.integers(0, 3), "prompt": st.sampled_from("abcd")}
    ),
    max_size=40,
)


@given(
    rows=ROWS,
    bad=st.sets(st.integers(0, 39)),
    least=st.integers(0, 3),
    deduplicate=st.booleans(),
    fraction=st.sampled_from([0.0, 0.3]),
)
def test_a_choice_loses_repeats_and_counts_as_plain_python_does(
    rows: list[dict[str, JSON]], bad: set[int], least: int, deduplicate: bool, fraction: float
) -> None:
    asked = Choice(
        RowFilter(where=("lang = en", f"score >= {least}")), "exact" if deduplicate else "", fraction, split_seed=7
    )
    looking = Looking(asked, Format("prompt_completion"))
    for index, row in enumerate(rows):
        whole = {**row, "completion": "x"}
        looking.add(RawRow(f"line {index}", mistake="is not JSON.") if index in bad else RawRow(f"line {index}", whole))
    passed = [n for n, row in enumerate(rows) if n in bad or (row["lang"] == "en" and row["score"] >= least)]
    said = [("bad", n) if n in bad else ("good", rows[n]["prompt"]) for n in range(len(rows))]
    kept = [n for n in passed if not deduplicate or said[n] not in [said[m] for m in passed if m < n]]
    if (rows and not passed) or (fraction and len(kept) < 2):
        with pytest.raises(InvalidInput, match=r"wants no row of|can't be split into train and test"):
            looking.selected()
        return
    found = looking.selected()
    train, test = np.flatnonzero(found.train).tolist(), np.flatnonzero(found.test).tolist()
    assert sorted(train + test) == kept
    assert (found.filtered, found.duplicates) == (len(rows) - len(passed), len(passed) - len(kept))
    assert (train, test) == (split(kept, fraction, 7) if fraction else (kept, []))
    assert found.overlapping == sum(said[n] in [said[m] for m in train] for n in test)
