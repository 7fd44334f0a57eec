"""Runs examples/chat_sft.ipynb in a kernel of this very interpreter.

    python -m tests.support.notebook_runs      runs it on the embedded stack and keeps its outputs in the file

The hash of the sources that were run is kept beside the outputs, so that a test sees when the two part.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from turnloom.embedded.stack import Stack, StackSettings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTEBOOK = EXAMPLES / "chat_sft.ipynb"
KERNEL = "turnloom"
CELL_SECONDS = 400  #: two test processes share the cores


def read(path: Path = NOTEBOOK) -> NotebookNode:
    """The committed notebook."""
    return nbformat.read(path, as_version=4)


def source_hash(notebook: NotebookNode) -> str:
    """sha256 over the kinds and sources of all cells."""
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def register_kernel(folder: Path) -> Path:
    """What docs/guide.md says to do, into `folder` instead of the user's; gives what JUPYTER_PATH takes."""
    words = ("install", "--prefix", str(folder), "--name", KERNEL)
    subprocess.run([sys.executable, "-m", "ipykernel", *words], check=True, capture_output=True)
    return folder / "share" / "jupyter"


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """These in the environment of what is started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run(notebook: NotebookNode, address: str, folder: Path) -> NotebookNode:
    """Runs all cells, in a folder with the sample conversations; raises CellExecutionError at the first that fails."""
    work = folder / "examples"
    work.mkdir()
    for name in ("conversations.jsonl", "conversations.test.jsonl"):
        shutil.copy(EXAMPLES / name, work)
    paths = {"JUPYTER_PATH": str(register_kernel(folder / "jupyter")), "TURNLOOM_ADDRESS": address}
    paths |= {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    with variables(paths):
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            startup_timeout=CELL_SECONDS,
            kernel_name=KERNEL,
            coalesce_streams=True,
            resources={"metadata": {"path": str(work)}},
        )
        return client.execute()


def keep(notebook: NotebookNode, path: Path = NOTEBOOK) -> None:
    """Writes it with its outputs, and without what belongs to this machine."""
    for cell in notebook.cells:
        cell.metadata = NotebookNode()  # times of execution
    version = ".".join(map(str, sys.version_info[:2]))
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "version": version},
            "turnloom": {"sources_sha256": source_hash(notebook)},
        }
    )
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="turnloom-notebook-") as name:
        folder = Path(name)
        with Stack(StackSettings(folder / "stack")) as stack:
            keep(run(read(), stack.address, folder))


if __name__ == "__main__":
    main()
