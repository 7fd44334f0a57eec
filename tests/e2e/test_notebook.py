"""The notebook as a reader runs it, on the real TuFT: unchanged, and with one cell changed to a hub dataset."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nbformat import NotebookNode

from tests.fakes.hub import Hub
from tests.support import notebook_runs
from turnloom.embedded.sample_data import held_out_conversations, train_conversations
from turnloom.embedded.stack import Stack, StackSettings

pytestmark = [pytest.mark.tuft, pytest.mark.slow, pytest.mark.timeout(900)]
HUB = "HuggingFaceH4/no_robots"


def parquet(conversations: list[dict]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"messages": [c["messages"] for c in conversations]}), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def stack(tuft_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The embedded stack; its preprocess worker takes a hub on loopback for the real one."""
    folder = tmp_path_factory.mktemp("notebook")
    files = {
        "data/train-00000-of-00001.parquet": parquet(train_conversations()[:48]),
        "data/test-00000-of-00001.parquet": parquet(held_out_conversations()[:12]),
    }
    with (
        Hub(HUB, files) as hub,
        notebook_runs.variables({"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}),
        Stack(StackSettings(folder / "stack", tuft_python)) as made,
    ):
        yield made


def outputs(notebook: NotebookNode, cell: str) -> list[NotebookNode]:
    return next(c for c in notebook.cells if c.id == cell).outputs


def text(notebook: NotebookNode, cell: str) -> str:
    """Everything that a cell wrote, drawn outputs included."""
    return "".join(
        o.text if o.output_type == "stream" else o.data.get("text/plain", "") for o in outputs(notebook, cell)
    )


def pictures(notebook: NotebookNode, cell: str) -> list[bytes]:
    found = [o.data["image/png"] for o in outputs(notebook, cell) if "image/png" in o.get("data", {})]
    return [base64.b64decode(picture) for picture in found]


def ask(notebook: NotebookNode, source: str) -> None:
    """Has the kernel print something before the notebook closes its client."""
    notebook.cells.insert(-1, nbformat.v4.new_code_cell(source, id="asked"))


def test_the_notebook_runs_as_it_is_and_shows_what_it_promises(stack: Stack, tmp_path: Path) -> None:
    notebook = notebook_runs.read()
    ask(
        notebook,
        "import sys\n"
        "jobs = [cell.id for cell in sweep.jobs]\n"
        "print(json.dumps([sys.executable, 'ipywidgets' in sys.modules, run.test, verdict.best, jobs]))",
    )
    ran = notebook_runs.run(notebook, stack.address, tmp_path)
    interpreter, widgets, test, best, jobs = json.loads(text(ran, "asked"))
    assert interpreter == sys.executable
    assert not widgets
    assert [step for step, _ in test] == list(range(0, 61, 10))
    assert test[-1][1] < test[0][1] / 4
    assert f"test NLL {test[0][1]:.4f} before training, {test[-1][1]:.4f} after 60 steps" in text(ran, "result")
    assert re.search(r"SUCCEEDED  ━{20}  step 60/60  NLL ", text(ran, "train"))
    assert len(outputs(ran, "train")) == 1  # one output, redrawn
    assert "⟦Beep. Please mind the step.⟧" in text(ran, "mask")
    assert "messages[3] spells the control token <|end|>" in text(ran, "mask")
    for cell in ("curves", "sweep-curves"):
        assert [picture[:4] for picture in pictures(ran, cell)] == [b"\x89PNG"] * 2
    assert text(ran, "sweep").count("SUCCEEDED") == len(jobs) == 4
    assert best in jobs
    assert "* Best: rank " in text(ran, "verdict")
    assert "'r': 16, 'lora_alpha': 32" in text(ran, "adapter")
    assert (tmp_path / "examples" / "chat_sft" / "adapter" / "adapter_model.safetensors").stat().st_size > 100_000
    streams = [o.name for c in ran.cells for o in c.get("outputs", []) if o.output_type == "stream"]
    assert "stderr" not in streams


def test_one_changed_cell_takes_it_to_a_hub_dataset(stack: Stack, tmp_path: Path) -> None:
    notebook = notebook_runs.read()
    (settings,) = [cell for cell in notebook.cells if cell.id == "settings"]
    small = f'"model": "{stack.model}", "steps": 10, "grid": {{"lora_rank": [2, 4]}}, "grid_steps": 10'
    settings.source = settings.source.replace("HERE = LAPTOP", f"HERE = {{**GPU_HOST, {small}}}")
    ran = notebook_runs.run(notebook, stack.address, tmp_path)
    assert "train: 48 conversations" in text(ran, "data")
    assert "READY: 12 conversations read" in text(ran, "data")
    assert text(ran, "sweep").count("SUCCEEDED") == 2
