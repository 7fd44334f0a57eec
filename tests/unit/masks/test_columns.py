"""Columns in, columns out: each engine's batches give the rows of the Masker, and say how they were made."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest

from tests.support.circles import circular
from tests.unit.masks.test_masker import CHATS
from tests.unit.masks.test_model import source
from turnloom.masks import Masker, Options, load_model
from turnloom.masks.columns import COLUMNS, BadConversation, RowColumns
from turnloom.masks.domain.errors import InvalidOption

GOOD = [chat if isinstance(chat, dict) else {"messages": chat} for chat in CHATS[:2]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> RowColumns:
    return RowColumns(Masker(load_model(source(tmp_path_factory.mktemp("hub") / "model")), Options(date="2026-01-02")))


def test_the_runs_of_a_row_are_the_maskers_weights(rows: RowColumns) -> None:
    made = rows({"messages": [one["messages"] for one in GOOD], "index": [4, 9]})
    wanted = [(at, row) for at, masked in zip((4, 9), rows.masker(GOOD), strict=True) for row in masked.rows]
    assert [(at, part) for at, part in zip(made["conversation"], made["part"], strict=True)] == [
        (at, row.part) for at, row in wanted
    ]
    for number, (_, row) in enumerate(wanted):
        assert made["token_ids"][number].tolist() == row.token_ids.tolist()
        weights = np.repeat(np.float32(made["run_values"][number]), made["run_lengths"][number])
        assert weights.tolist() == row.target_weights.tolist()


def test_datasets_map_takes_it_with_indices(rows: RowColumns) -> None:
    data = datasets.Dataset.from_list(GOOD)
    made = data.map(rows, batched=True, with_indices=True, remove_columns=data.column_names, num_proc=None)
    assert set(made.column_names) == set(COLUMNS)
    assert made["conversation"][:] == rows({"messages": data["messages"]}, [0, 1])["conversation"]


def test_a_table_of_arrow_gives_a_table_of_arrow(rows: RowColumns) -> None:
    table = pa.table({"messages": [one["messages"] for one in GOOD], "index": [0, 1]})
    made = pickle.loads(pickle.dumps(rows)).arrow(table)
    kinds = dict(zip(made.schema.names, made.schema.types, strict=True))
    assert kinds["token_ids"] == pa.list_(pa.int32())
    assert kinds["run_values"] == pa.list_(pa.float32())
    assert made.column("conversation").to_pylist() == rows(table.to_pydict())["conversation"]


def test_a_bad_conversation_is_named_or_left_out(rows: RowColumns) -> None:
    batch = {"messages": [[{"role": "user", "content": "alone"}], GOOD[0]["messages"]], "index": [7, 8]}
    with pytest.raises(BadConversation, match=r"conversation 7: .*skip_bad=True"):
        rows(batch)
    kept = RowColumns(rows.masker, skip_bad=True)(batch)
    assert set(kept["conversation"]) == {8}


def test_a_value_that_json_can_not_hold_is_named_and_stops_no_other(rows: RowColumns) -> None:
    circles = [GOOD[0], {"messages": [{"role": "user", "content": [circular()]}, *GOOD[0]["messages"]]}, GOOD[1]]
    batch = {"messages": [one["messages"] for one in circles]}
    with pytest.raises(BadConversation, match=r"^conversation 1: messages\[0\]\.content\[0\]\.self: holds itself"):
        rows(batch, [0, 1, 2])
    assert set(RowColumns(rows.masker, skip_bad=True)(batch, [0, 1, 2])["conversation"]) == {0, 2}


def test_the_description_says_model_hashes_and_options_and_needs_a_date(rows: RowColumns, tmp_path: Path) -> None:
    told = json.loads(rows.describe(tmp_path / "rows").read_text())
    assert told["options"]["date"] == "2026-01-02"
    assert told["tokenizer_sha256"] == rows.masker.model.tokenizer_sha256
    with pytest.raises(InvalidOption, match="date is None"):
        RowColumns(Masker(rows.masker.model)).description()
