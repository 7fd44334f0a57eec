"""`turnloom up` as a person has it: a killed worker comes back, and a laptop may sleep while a job trains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from turnloom import TurnloomClient
from turnloom.embedded.sample_data import train_conversations
from turnloom.v1 import training_pb2

pytestmark = [pytest.mark.slow, pytest.mark.tuft]
SLEEP_SECONDS = 20.0  #: longer than the lease of a worker (15 s)
MODEL = "turnloom/tiny-qwen3"


@pytest.fixture
def up(tmp_path: Path, tuft_python: Path) -> Iterator[tuple[psutil.Process, TurnloomClient]]:
    command = [sys.executable, "-m", "turnloom.cli", "up", "--folder", str(tmp_path / "state"), "--json"]
    command += ["--address", "127.0.0.1:0", "--metrics-port", "0", "--exporter-port", "0", "--http", "127.0.0.1:0"]
    command += ["--tuft-python", str(tuft_python)]
    with (tmp_path / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        described = json.loads(process.stdout.readline())
        with TurnloomClient(described["address"]) as client:
            yield psutil.Process(process.pid), client
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (tmp_path / "up.log").read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def job(client: TurnloomClient, steps: int) -> str:
    dataset = client.datasets.create(train_conversations()[:64], model=MODEL)  # type: ignore[arg-type]
    return client.jobs.create(
        model=MODEL, training_dataset=dataset.id, lora_rank=4, max_steps=steps, checkpoint_every=5
    ).id


def reached(client: TurnloomClient, job_id: str, step: int) -> None:
    until = time.monotonic() + 120
    while client.jobs.retrieve(job_id).progress.step < step:
        assert time.monotonic() < until, "the job does not come forward"
        time.sleep(0.2)


def ended(client: TurnloomClient, job_id: str, steps: int) -> None:
    deque(client.jobs.watch(job_id), maxlen=0)
    assert client.jobs.retrieve(job_id).state == training_pb2.JOB_STATE_SUCCEEDED
    assert [step.step for step in client.jobs.steps(job_id)] == list(range(1, steps + 1))


@pytest.mark.timeout(600)
def test_a_killed_worker_comes_back_and_a_stopped_stack_goes_on(up: tuple[psutil.Process, TurnloomClient]) -> None:
    process, client = up
    first = job(client, 20)
    reached(client, first, 3)
    (worker,) = [
        child for child in process.children() if child.cmdline()[-3:] == ["services.trainer", "worker", "--allow-cpu"]
    ]
    os.kill(worker.pid, signal.SIGKILL)
    ended(client, first, 20)
    second = job(client, 20)
    reached(client, second, 3)
    everything = [process, *process.children(recursive=True)]
    for one in everything:
        one.suspend()
    time.sleep(SLEEP_SECONDS)  # what a closed lid does
    for one in reversed(everything):
        one.resume()
    ended(client, second, 20)
