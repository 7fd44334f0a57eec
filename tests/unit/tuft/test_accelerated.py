"""The accelerated model, tested inside TuFT's own environment, which has torch, peft and TuFT but no pytest.

All files of inside/ run in one process, for importing torch and TuFT takes longer than most of them. pytest comes from
this environment, last on its path.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
INSIDE = Path(__file__).parent / "inside"
START = """
import sys
sys.path.append(sys.argv.pop(1))
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.tuft
@pytest.mark.timeout(900)
def test_inside_the_tuft_environment(tuft_python: Path) -> None:
    options = ["--rootdir", str(ROOT), "-c", os.devnull, "--confcutdir", str(INSIDE), "-p", "no:cacheprovider"]
    options += ["-W", "ignore", "--color=no"]
    command = [str(tuft_python), "-c", START, sysconfig.get_path("purelib"), *options, str(INSIDE)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-9000:] + done.stderr[-2000:]
    for name in (path.name for path in INSIDE.glob("test_*.py")):
        assert f"/{name} ." in done.stdout, done.stdout
