"""The worker's parent holds models for its horses and stays clean to fork: one thread, no gRPC, no pandas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, os, sys
from pathlib import Path
from services.preprocess.datasets.environment import set_environment
set_environment()
from services.preprocess.datasets.worker import process
from services.preprocess.datasets.worker.preloading import Preloaded
from services.preprocess.models.held import HELD
from services.preprocess.models.registry import read_models
from services.preprocess.settings import read_settings
from turnloom.masks import Masker

settings = read_settings(os.environ)
Preloaded(settings, None).warm_up()
threads = len(os.listdir("/proc/self/task"))
entry = read_models(settings.models)[0]
model = HELD.load(entry, settings.model_cache)
same = HELD.load(entry, settings.model_cache).vocabulary is model.vocabulary
out, into = os.pipe()
child = os.fork()
if child == 0:
    turns = [{"role": "user", "content": "a b " * 500}, {"role": "assistant", "content": "c d " * 500}]
    made = Masker(HELD.load(entry, settings.model_cache))([{"messages": turns}] * 300)
    os.write(into, str(sum(len(one.rows) for one in made)).encode())
    os._exit(0)
os.close(into)
rows = os.read(out, 100).decode()
heavy = [name for name in ("grpc", "pandas", "datasets", "transformers", "torch") if name in sys.modules]
print(json.dumps({"threads": threads, "same": same, "rows": rows, "heavy": heavy}))
"""


def test_a_forked_horse_encodes_with_the_parents_model_and_the_parent_has_one_thread(
    model_folder: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text(f'[[models]]\nname = "m"\nsource = "{model_folder}"\n')
    environment = {**os.environ, "TURNLOOM_MODELS": str(models), "TURNLOOM_MODEL_CACHE": str(tmp_path / "cache")}
    root = Path(__file__).parents[4]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=root,
        env=environment,
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    )
    answer = json.loads(ran.stdout)
    assert answer == {"threads": 1, "same": True, "rows": "300", "heavy": []}
