"""The CPU worker on a real queue: it prepares models, and refuses functions that are not on its list."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.store.errors import TicketFailed
from services.store.queueing.queues import PREPROCESS_QUEUE
from services.store.store import open_store

PROGRAM = """
import os, sys
from services.preprocess.settings import read_settings
from services.preprocess.datasets.worker.process import work
sys.exit(work(read_settings(os.environ), burst=True))
"""


def test_a_ticket_prepares_a_model_and_any_other_function_is_refused(
    redis_url: str, model_folder: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text(f'[[models]]\nname = "m"\nsource = "{model_folder}"\n')
    store = open_store(redis_url)

    def call(function: str, **arguments: str) -> str:
        return store.tickets.call(PREPROCESS_QUEUE, function, arguments, timeout=120, result_ttl=600)

    good = call("services.preprocess.datasets.worker.tasks.prepare_model", name="m")
    unknown = call("services.preprocess.datasets.worker.tasks.prepare_model", name="n")
    evil = call("os.system", command=f"touch {tmp_path / 'evil'}")
    environment = {
        **os.environ,
        "TURNLOOM_REDIS_URL": redis_url,
        "TURNLOOM_MODELS": str(models),
        "TURNLOOM_MODEL_CACHE": str(tmp_path / "cache"),
    }
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, env=environment, check=True, timeout=250)
    answer = store.tickets.result(good, timeout=5)
    assert isinstance(answer, dict)
    assert answer["name"] == "m"
    assert len(answer["template_sha256"]) == 64
    with pytest.raises(TicketFailed, match="has no model 'n'; name one of m"):
        store.tickets.result(unknown, timeout=5)
    with pytest.raises(TicketFailed, match=r"os\.system is not a function of the preprocess worker"):
        store.tickets.result(evil, timeout=5)
    assert not (tmp_path / "evil").exists()
    store.close()
