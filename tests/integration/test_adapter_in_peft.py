"""A real adapter, loaded and merged by the example for users in PEFT, gives the test NLL of its job."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from services.store.blobs.objects import Objects
from services.store.records import Hyperparameters, JobState
from tests.support.trainer_parts import conversations
from tests.support.trainer_stack import REPOSITORY, TrainerStack, stack_over_real_tuft

pytestmark = [pytest.mark.tuft, pytest.mark.slow]
HYPER = Hyperparameters(max_steps=8, batch_size=4, learning_rate=5e-3, lora_rank=8, eval_every=0, checkpoint_every=0)
ROWS = conversations(12, vocabulary=500)  # evaluated on what it learns: tokens are random, others would not improve


stack = pytest.fixture(stack_over_real_tuft)


def test_peft_and_the_merged_model_give_the_test_nll_of_the_job(
    stack: TrainerStack,
    tuft_python: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
) -> None:
    job_id = stack.submit(HYPER, train=ROWS, test=ROWS)
    stack.worker()
    job = stack.wait(job_id, JobState.SUCCEEDED, deadline=240)
    Objects(str(stack.folder / "store")).get_folder(job.adapter_uri, tmp_path / "adapter")
    rows = tmp_path / "rows.jsonl"
    lines = [{"token_ids": row.token_ids.tolist(), "target_weights": row.target_weights.tolist()} for row in ROWS]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    script = REPOSITORY / "examples" / "adapter.py"
    command = [
        tuft_python,
        script,
        tiny_model_dir,
        tmp_path / "adapter",
        "--rows",
        rows,
        "--merge",
        tmp_path / "merged",
    ]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["base_nll"] > found["adapter_nll"] + 0.1  # far more than the tolerances below
    assert found["adapter_nll"] == pytest.approx(job.test_nll, rel=1e-5)
    assert found["merged_nll"] == pytest.approx(job.test_nll, rel=1e-4)
    assert (tmp_path / "merged" / "tokenizer.json").is_file()
