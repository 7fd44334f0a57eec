"""Four shapes of rows: which one a row shows, and which messages it gives."""

from __future__ import annotations

import pytest

from turnloom.errors import InvalidInput
from turnloom.foreign.columns import UnusedColumns, unused_sentence
from turnloom.reading.chat_formats import Format, detect

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
ROWS = {
    "messages": {"messages": [USER, ASSISTANT]},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "prompt_completion": {"prompt": "q", "completion": "a"},
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
}


@pytest.mark.parametrize("name", ROWS)
def test_each_format_is_detected_by_its_columns_and_gives_the_same_messages(name: str) -> None:
    found = detect([{"text": "a row that shows nothing"}, ROWS[name]])
    assert found == Format(name)
    assert found.document({**ROWS[name], "id": 7})["messages"] == [USER, ASSISTANT]
    assert found.document({**ROWS[name], "id": 7})["id"] == 7


def test_openai_messages_are_found_under_sharegpts_column() -> None:
    row = {"conversations": [USER, ASSISTANT]}
    assert detect([row]) == Format("messages", {"messages": "conversations"})
    assert detect([row]).document(row)["messages"] == [USER, ASSISTANT]


def test_columns_may_be_mapped_and_only_formats_with_these_parts_are_tried() -> None:
    row = {"chat": [USER, ASSISTANT], "prompt": "x", "completion": "y", "functions": [{"name": "f"}]}
    found = detect([row], {"messages": "chat", "tools": "functions"})
    assert found.name == "messages"
    assert found.document(row) == {"messages": [USER, ASSISTANT], "tools": [{"name": "f"}]}


def test_system_input_and_history_are_taken_along() -> None:
    row = {"instruction": "q", "input": "more", "output": "a", "system": "s", "history": [["q0", "a0"]]}
    assert Format("alpaca").document(row)["messages"] == [
        SYSTEM,
        {"role": "user", "content": "q0"},
        {"role": "assistant", "content": "a0"},
        {"role": "user", "content": "q\n\nmore"},
        ASSISTANT,
    ]
    assert Format("sharegpt").document({**ROWS["sharegpt"], "system": "s"})["messages"][0] == SYSTEM
    conversational = {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}
    assert Format("prompt_completion").document(conversational)["messages"] == [SYSTEM, USER, ASSISTANT]


@pytest.mark.parametrize(
    ("name", "row", "field", "message"),
    [
        ("messages", {"text": "x"}, "messages", "there is no column messages (columns: text)."),
        ("messages", {"messages": "x"}, "messages", "is text; give a list."),
        ("messages", 3, "", "a row is the number 3; give an object with columns."),
        (
            "sharegpt",
            {"conversations": [{"from": "cat", "value": "x"}]},
            "conversations[0].from",
            "is from 'cat'; known",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "gpt"}]},
            "conversations[0]",
            "can't be used; give an object with from and value.",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "q", "content": "other"}]},
            "conversations[0].value",
            "and content are two texts; leave one of them out.",
        ),
        ("prompt_completion", {"prompt": 1, "completion": "a"}, "prompt", "is the number 1; give text."),
        ("alpaca", {"instruction": "q", "output": None}, "output", "is null in this row"),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "history": [["q"]]},
            "history[0]",
            "can't be used; give a list of question",
        ),
    ],
)
def test_a_row_that_does_not_fit_says_column_and_kind(name: str, row: object, field: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Format(name).document(row)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert caught.value.message.startswith(message)


def test_unknown_formats_parts_and_columns_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidInput, match="There is no format 'openai'") as unknown:
        Format("openai")
    assert unknown.value.hint == "Choose from messages, sharegpt, prompt_completion, alpaca."
    with pytest.raises(InvalidInput, match="Format alpaca has no part 'messages'"):
        Format("alpaca", {"messages": "x"})
    with pytest.raises(InvalidInput, match=r"No known format has these columns: text \(text\), label \(a number\)\."):
        detect([{"text": "x", "label": 1}])


@pytest.mark.parametrize(
    ("named", "sentence", "hint"),
    [
        ({"mesages": "chat"}, "No format has a part 'mesages'.", "There are: completion, "),
        ({"messages": "chats"}, "There is no column chats to be messages (columns: chat).", "Look at the spelling."),
    ],
)
def test_a_mistake_in_the_columns_that_were_named_is_told_as_that(
    named: dict[str, str], sentence: str, hint: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        detect([{"chat": [USER, ASSISTANT]}], named)
    assert refused.value.message == sentence
    assert hint in refused.value.hint
    assert refused.value.field == "column_mapping"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("train", False),
        ("training", 0),
        ("trainable", "false"),
        ("loss", False),
        ("masked", True),
        ("no_loss", 1),
        ("label", False),
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("chat_template_kwargs", '{"enable_thinking": false}'),
    ],
)
def test_a_column_that_keeps_a_row_from_training_or_changes_its_text_is_refused(column: str, value: object) -> None:
    for name, row in ROWS.items():
        with pytest.raises(InvalidInput) as refused:
            Format(name).document({**row, column: value})  # type: ignore[dict-item]
        assert refused.value.field == column


@pytest.mark.parametrize(
    ("column", "value"),
    [("train", True), ("loss", 0.0), ("loss", 1.25), ("masked", False), ("label", True), ("chat_template_kwargs", {})],
)
def test_a_column_that_keeps_nothing_from_training_harms_no_row(column: str, value: object) -> None:
    for name, row in ROWS.items():
        assert Format(name).document({**row, column: value})["messages"] == [USER, ASSISTANT]  # type: ignore[dict-item]


def test_pairs_of_preferences_are_told_from_an_unknown_format() -> None:
    for row in ({"prompt": "q", "chosen": "a", "rejected": "b"}, {"chosen": [USER, ASSISTANT], "rejected": [USER]}):
        with pytest.raises(
            InvalidInput, match="chosen and rejected are pairs of preferences, which no mask"
        ) as refused:
            detect([row])
        assert "map it: to the part completion" in refused.value.hint
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert detect([row], {"completion": "chosen"}).document(row)["messages"] == [USER, ASSISTANT]


@pytest.mark.parametrize("text", ["[]", '[{"a": 1}]', '["a"]', "[1, 2", "{}"])
def test_a_reply_that_is_json_stays_text(text: str) -> None:
    row = {"prompt": "q", "completion": text}
    assert detect([row]).document(row)["messages"] == [USER, {"role": "assistant", "content": text}]
    row = {"prompt": text, "completion": "a"}
    assert detect([row]).document(row)["messages"] == [{"role": "user", "content": text}, ASSISTANT]


def test_text_that_python_printed_is_named_as_no_json() -> None:
    with pytest.raises(InvalidInput, match=r"columns: messages \(text that is no JSON\), tools \(text\)\."):
        detect([{"messages": "[{'role': 'user'}]", "tools": "[]"}])


def test_a_mask_that_json_can_not_hold_is_not_passed_over() -> None:
    for column in ("loss_mask", "chat_template_kwargs", "tools", "system", "functions"):
        with pytest.raises(InvalidInput) as refused:
            Format("messages").document({"messages": [USER, ASSISTANT]}, {column: "holds NaN."})
        assert (refused.value.field, refused.value.message) == (column, "holds NaN.")


def test_columns_that_nobody_reads_are_named_once_in_their_order() -> None:
    unused = UnusedColumns(Format("messages").used)
    for row in (
        {"messages": [], "z": 1, "a": "", "tools": "[]", "system": "s", "loss_mask": [1]},
        {"messages": [], "a": "x", "z": 2, "functions": [], "label": True, "images": [], "empty": None},
        [USER],
    ):
        unused.add(row, unread=("nan",))  # type: ignore[arg-type]
    assert unused.names == ["z", "nan", "a"]
    assert unused_sentence(["z", "weight"]) == (
        "Columns that nobody reads: z, weight (write weight at each message to have it obeyed)."
    )
