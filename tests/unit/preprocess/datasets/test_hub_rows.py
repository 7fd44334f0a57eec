"""Rows that `datasets` reads are those of the files: nulls that were written stay, those that it filled in go."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from services.preprocess.datasets.sources.hub import rows
from services.store.records import DatasetSource
from turnloom.foreign.json_text import JSON

USER = {"role": "user", "content": "hi"}


def row(arguments: dict[str, JSON], schema: dict[str, JSON]) -> dict[str, JSON]:
    call: JSON = {"function": {"name": "f", "arguments": arguments}}
    parameters: JSON = {"type": "object", "properties": schema}
    return {
        "messages": [USER, {"role": "assistant", "content": "", "tool_calls": [call]}],
        "tools": [{"function": {"name": "f", "parameters": parameters}}],
    }


@pytest.mark.parametrize("streaming", [True, False])
def test_nulls_of_json_lines_are_told_from_those_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    written: list[dict[str, JSON]] = [
        row({"a": None, "b": 1}, {"a": {"type": "string", "default": None}}),
        row({"c": {"d": None}}, {"c": {"enum": ["x", None]}}),
        {"messages": [USER, {"role": "assistant", "content": "yes"}]},
    ]
    folder = tmp_path / "chats"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in written))
    source = DatasetSource(uri=str(folder), streaming=streaming)
    for skip in range(3):
        read = list(rows(str(folder), source, "", skip, roots=[str(tmp_path)]))
        assert [one.place for one in read] == [f"{folder}[train], row {index}" for index in range(skip, 3)]
        assert [_without_nulls(one.value) for one in read] == written[skip:]


def _without_nulls(value: JSON) -> JSON:
    assert isinstance(value, dict)
    return {name: column for name, column in value.items() if column is not None}
