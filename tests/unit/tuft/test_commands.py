"""How services.tuft is started: by name or by path, with a Python that has no turnloom, and what workers find of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.tuft.package_path import expose

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "services" / "tuft" / "__main__.py"
BY_NAME = ["-m", "services.tuft"]


def run(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    done = [sys.executable, *command]
    return subprocess.run(done, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("start", [BY_NAME, [str(PROGRAM)]], ids=["name", "path"])
def test_without_a_command_it_says_which_there_are(start: list[str]) -> None:
    done = run(*start)
    assert done.returncode == 2
    assert "launch --config gpu.yaml" in done.stderr
    assert "launch-cpu --config cpu.yaml" in done.stderr


@pytest.mark.parametrize("start", [BY_NAME, [str(PROGRAM)]], ids=["name", "path"])
def test_a_wrong_switch_is_one_sentence(start: list[str]) -> None:
    done = run(*start, "launch", "--config", "none.yaml", TURNLOOM_TUFT_ACCELERATE="yes")
    assert done.returncode == 1
    assert done.stderr == "services.tuft: TURNLOOM_TUFT_ACCELERATE: 'yes' can't be used; give 0, 1 or always\n"


def test_by_path_it_runs_in_any_folder(tmp_path: Path) -> None:
    done = run(str(PROGRAM), "launch-cpu", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--pid-file" in done.stdout


def test_workers_find_this_package_and_nothing_beside_it(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": "/elsewhere"}
    expose(tmp_path, environment)
    assert environment["PYTHONPATH"] == f"{tmp_path}{os.pathsep}/elsewhere"
    told = (
        "import importlib.util as i, services.tuft.errors as e; "
        "print(e.__file__, [n for n in ('services.store', 'turnloom', 'tests') if i.find_spec(n)])"
    )
    done = run("-S", "-c", told, cwd=tmp_path, **environment)
    assert done.stdout.split() == [str(tmp_path / "services" / "tuft" / "errors.py"), "[]"], done.stderr
