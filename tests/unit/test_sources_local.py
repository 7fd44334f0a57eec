"""Local files in any format give the client the conversations that the server would read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from turnloom.conversations import from_json
from turnloom.errors import InvalidInput
from turnloom.local_files import read_local

CHAT = from_json([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": "q", "completion": "a"},
        {"instruction": "q", "input": "", "output": "a"},
    ],
)
def test_every_format_is_read_from_json_lines(tmp_path: Path, row: object) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    assert [(s.conversation, s.place) for s in read_local(path)] == [(CHAT, f"{path}, line {n}") for n in (1, 2)]


def test_csv_is_read_and_a_short_row_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\nq,a\nq\n")
    rows = read_local(path)
    assert next(rows).conversation == CHAT
    with pytest.raises(InvalidInput, match="line 3: has not as many cells as there are columns"):
        next(rows)


def test_a_later_row_of_another_format_says_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "q", "completion": "a"}\n{"text": "x"}\n')
    with pytest.raises(
        InvalidInput, match=r"line 2: completion: there is no column|line 2: prompt: there is no column"
    ):
        list(read_local(path))


def test_what_only_the_server_reads_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is read by the server only") as caught:
        list(read_local(tmp_path / "a.parquet"))
    assert "turnloom dataset import" in caught.value.hint
