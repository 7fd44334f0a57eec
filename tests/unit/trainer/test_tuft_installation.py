"""The script that installs TuFT for the CPU, as far as it goes without installing; and the configurations beside it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPT = REPOSITORY / "scripts" / "install_tuft_cpu.sh"
LOAD = """
import sys
from pathlib import Path
from tuft.config import load_yaml_config
print(load_yaml_config(Path(sys.argv[1])).model_dump_json())
"""


def install(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_a_python_that_does_not_exist_is_named_in_one_line(tmp_path: Path) -> None:
    done = install(str(tmp_path / "venv"), "no-such-python")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "install_tuft_cpu: there is no 'no-such-python' on PATH; name a Python 3.11 or newer as the second argument."
    ]


def test_an_old_python_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.8.0" && exit\nexit 1\n')
    old.chmod(0o755)
    done = install(str(tmp_path / "venv"), str(old))
    assert done.returncode == 1
    assert "is Python 3.8.0, but Python 3.11 or newer is needed" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_what_is_installed_already_is_left_alone(tuft_python: Path) -> None:
    stamp = tuft_python.parents[1] / "turnloom-tuft.stamp"
    if not stamp.exists():
        pytest.skip(f"{tuft_python} was not installed by the script")
    assert install(str(tuft_python.parents[1]), "no-such-python").stdout.startswith("TuFT 0.2.2 is installed in")


@pytest.mark.tuft
@pytest.mark.parametrize(("name", "micro_batch_size", "records"), [("cpu", 16, "FILE"), ("gpu", 64, "REDIS")])
def test_tuft_accepts_the_configurations(
    tuft_python: Path,
    name: str,
    micro_batch_size: int,
    records: str,
) -> None:
    environment = os.environ | {
        "TURNLOOM_TUFT_CHECKPOINT_DIR": "/checkpoints",
        "TURNLOOM_TUFT_MODEL_PATH": "/model",
        "TURNLOOM_TUFT_API_KEY": "tml-a_key-1",
    }
    command = [str(tuft_python), "-c", LOAD, str(REPOSITORY / "deploy" / "tuft" / f"{name}.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    config = json.loads(done.stdout)
    assert config["authorized_users"] == {"tml-a_key-1": "turnloom"}
    assert config["persistence"]["mode"] == records
    assert config["persistence"]["file_path"] == "/checkpoints/records.json"
    [model] = config["supported_models"]
    assert model["capabilities"] == ["training"]
    assert model["model_path"] == "/model"
    assert model["micro_batch_size"] == micro_batch_size
