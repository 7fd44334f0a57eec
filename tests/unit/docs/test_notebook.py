"""The committed notebook: its outputs belong to its cells, are small, and name nothing of where they were made."""

from __future__ import annotations

import json
import re

from tests.support.notebook_runs import NOTEBOOK, read, source_hash

DOCUMENT = NOTEBOOK.read_text(encoding="utf-8")


def test_its_outputs_came_from_the_cells_that_it_shows() -> None:
    notebook = read()
    assert notebook.metadata.turnloom.sources_sha256 == source_hash(notebook), (
        "run: python -m tests.support.notebook_runs"
    )
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_its_outputs_are_small_and_hold_no_error_and_no_path() -> None:
    assert len(DOCUMENT) < 300_000
    found = [output for cell in read().cells for output in cell.get("outputs", [])]
    assert {output.output_type for output in found} == {"stream", "display_data"}
    assert sum("image/png" in output.get("data", {}) for output in found) == 4
    words = json.dumps([output.get("text") or output.data.get("text/plain", "") for output in found])
    assert not re.search(r"/(home|root|tmp|work|Users|opt)/|Traceback", words)


def test_only_its_settings_cell_names_a_model_or_a_source() -> None:
    naming = [
        cell.id
        for cell in read().cells
        if cell.cell_type == "code" and re.search(r"tiny-qwen3|Qwen/|no_robots|jsonl|\d\.\d\.\d\.\d|1e-\d", cell.source)
    ]
    assert naming == ["settings"]
