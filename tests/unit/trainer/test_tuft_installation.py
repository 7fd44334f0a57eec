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
print("[" + ",".join(load_yaml_config(Path(name)).model_dump_json() for name in sys.argv[1:]) + "]")
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


def recorder(path: Path, code: str = "exit 0") -> Path:
    """A program that writes its arguments behind its name into `calls` beside it, and says that torch is not there."""
    path.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 1\necho "{path.name} $*" >>"{path.parent}/calls"\n{code}\n')
    path.chmod(0o755)
    return path


def torch_from(folder: Path, **environment: str) -> tuple[list[str], str]:
    """What was called to install torch, and what was said."""
    python = recorder(folder / "python")
    done = subprocess.run(
        ["bash", str(SCRIPT.parent / "install_cpu_torch.sh"), str(python)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": f"{folder}:/usr/bin:/bin", **environment},
    )
    return (folder / "calls").read_text().splitlines(), done.stdout


def test_torch_comes_from_the_index_that_is_named(tmp_path: Path) -> None:
    recorder(tmp_path / "uv")
    (call,), _ = torch_from(tmp_path, TURNLOOM_TORCH_INDEX="https://wheels/cpu")
    assert call.startswith("python -m pip install")
    assert call.endswith("--index-url https://wheels/cpu torch==2.13.0")


def test_torch_comes_by_uv_where_uv_is_there(tmp_path: Path) -> None:
    recorder(tmp_path / "uv")
    (call,), said = torch_from(tmp_path)
    assert call == f"uv pip install -q --python {tmp_path / 'python'} --torch-backend cpu torch==2.13.0"
    assert said == ""


def test_torch_comes_by_pip_where_uv_fails_or_is_not_there_and_the_cost_is_said(tmp_path: Path) -> None:
    recorder(tmp_path / "uv", "exit 2")
    calls, said = torch_from(tmp_path)
    assert [call.split()[0] for call in calls] == ["uv", "python"]
    assert "may bring CUDA, about 4 GB" in said
    (tmp_path / "uv").unlink()
    (tmp_path / "calls").unlink()
    (call,), said = torch_from(tmp_path)
    assert call == "python -m pip install -q --disable-pip-version-check torch==2.13.0"
    assert "uv on PATH or TURNLOOM_TORCH_INDEX avoid that" in said


def test_torch_that_is_there_is_left_alone(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\ntouch "{tmp_path}/calls"\n')
    python.chmod(0o755)
    subprocess.run(["bash", str(SCRIPT.parent / "install_cpu_torch.sh"), str(python)], check=True)
    assert not (tmp_path / "calls").exists()


@pytest.mark.tuft
def test_tuft_accepts_the_configurations(tuft_python: Path) -> None:
    environment = os.environ | {
        "TURNLOOM_TUFT_CHECKPOINT_DIR": "/checkpoints",
        "TURNLOOM_TUFT_MODEL_PATH": "/model",
        "TURNLOOM_TUFT_API_KEY": "tml-a_key-1",
    }
    files = [str(REPOSITORY / "deploy" / "tuft" / f"{name}.yaml") for name in ("cpu", "gpu")]
    command = [str(tuft_python), "-c", LOAD, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    configurations = json.loads(done.stdout)
    for config in configurations:
        assert config["authorized_users"] == {"tml-a_key-1": "turnloom"}
        assert config["persistence"]["file_path"] == "/checkpoints/records.json"
        [model] = config["supported_models"]
        assert model["capabilities"] == ["training"]
        assert model["model_path"] == "/model"
    assert [config["persistence"]["mode"] for config in configurations] == ["FILE", "REDIS"]
    assert [config["supported_models"][0]["micro_batch_size"] for config in configurations] == [16, 64]
