"""What a program or a library says where an extra is not installed: one sentence that names it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from turnloom.optional import missing, needs

ROOT = Path(__file__).resolve().parents[2]
#: Hides a library from the interpreter that finds this file.
HIDING = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hide())
"""


def without(hidden: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(HIDING.format(hidden=hidden))
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "TURNLOOM_TUFT_API_KEY": "tml-test"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=folder)


SAMPLER = ("services.sampler", "--model", "m", "--model-name", "m", "--checkpoints", "c")
TUFT = ("services.tuft", "launch-cpu", "--config", "none.yaml")


@pytest.mark.parametrize(
    ("hidden", "program", "install"),
    [
        ("transformers", ["turnloom.masks.prepare"], "run pip install 'turnloom[prepare]'"),
        ("huggingface_hub", ["turnloom.masks.prepare"], "run pip install 'turnloom[prepare]'"),
        ("numpy", ["turnloom.masks.prepare"], "run pip install 'turnloom[masks]'"),
        ("grpc", ["turnloom.cli"], "run pip install 'turnloom[client]' for the command line"),
        ("typer", ["turnloom.demo"], "run pip install -e '.[embedded]'"),
        ("redis", ["services.preprocess"], "run pip install -e '.[preprocess]'"),
        ("grpc", ["services.preprocess"], "run pip install -e '.[preprocess]'"),
        ("jinja2", ["services.preprocess"], "run pip install -e '.[preprocess]'"),
        ("tokenizers", ["services.preprocess", "worker"], "run pip install -e '.[preprocess]'"),
        ("datasets", ["services.preprocess", "worker"], "run pip install -e '.[preprocess-worker]'"),
        ("redis", ["services.trainer"], "run pip install -e '.[trainer]'"),
        ("prometheus_client", ["services.trainer", "exporter"], "run pip install -e '.[trainer]'"),
        ("uvicorn", ["services.rest"], "run pip install -e '.[rest]'"),
        ("torch", SAMPLER, "in this Python; run it by TuFT's"),
        ("psutil", TUFT, "run it by the one of scripts/install_tuft_cpu.sh"),
    ],
)
def test_a_program_without_its_extra_ends_with_one_sentence_that_names_it(
    hidden: str, program: list[str], install: str, tmp_path: Path
) -> None:
    done = without(hidden, tmp_path, "-m", *program)
    assert done.returncode == 1, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert f"{hidden} is not installed" in sentence
    assert install in sentence


def test_the_engine_imported_without_its_extra_is_an_import_error_that_names_it(tmp_path: Path) -> None:
    done = without("numpy", tmp_path, "-c", "import turnloom.masks")
    last = done.stderr.splitlines()[-1]
    assert last == "ImportError: numpy is not installed; run pip install 'turnloom[masks]'"


def test_a_part_of_our_own_that_is_missing_stays_the_error_it_is() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"turnloom\.nothing"), needs("pip install nothing", "__main__"):
        import turnloom.nothing  # noqa: F401


def test_a_library_is_missing_where_its_package_is() -> None:
    assert [missing(name) for name in ("json", "nowhere", "nowhere.at.all")] == [False, True, True]
