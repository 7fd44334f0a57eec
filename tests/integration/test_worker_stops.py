"""Workers that are told to stop while Redis is away or silent: they end, and do not come back with Redis."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rq import Worker

from services.store.queueing.ticket_jobs import TicketWorker
from services.store.records import Hyperparameters
from tests.support.trainer_stack import REPOSITORY, TrainerStack, stack_over_fake_tuft, wait_for
from turnloom.embedded.ports import free_port

HYPER = Hyperparameters(max_steps=100_000, batch_size=4, learning_rate=1e-2, lora_rank=4, checkpoint_every=5)
LEAVING = "leaving all the same"
#: A worker as the services start it, which gives Redis less time for its first answer.
SCRIPT = """
import logging, sys
from services.store.queueing import ticket_jobs
logging.basicConfig(format="%(message)s")
ticket_jobs.PING_SECONDS = 0.2
make = lambda connection: ticket_jobs.TicketWorker("q", connection, look_every=1)
ticket_jobs.work_until_stopped(sys.argv[1], make, burst=False, log_level="WARNING")
"""

stack = pytest.fixture(stack_over_fake_tuft)


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_an_idle_worker_ends_by_one_signal_without_redis(stack: TrainerStack) -> None:
    worker = stack.worker()
    wait_for(lambda: bool(stack.store.redis.smembers("rq:workers")), "the worker listens")
    stack.redis.kill()
    missed = ("could not connect to Redis", "trying again")  # by RQ's loop, or where that was left first
    wait_for(lambda: any(words in stack.log() for words in missed), "the worker misses Redis")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    _, asked, after = stack.log().rpartition("asked to stop")
    assert asked
    assert "trying again" not in after


def test_an_idle_worker_looks_for_redis_every_5_seconds_however_long_it_was_away() -> None:
    assert (TicketWorker.max_connection_wait_time, Worker.max_connection_wait_time) == (5.0, 60.0)


def test_a_training_worker_ends_by_one_signal_without_redis(stack: TrainerStack) -> None:
    stack.environment["TURNLOOM_REDIS_PATIENCE"] = "1"
    job = stack.submit(replace(HYPER, eval_every=0))
    worker = stack.worker()
    stack.wait_step(job, 7)
    stack.redis.kill()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0
    assert LEAVING in stack.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("away", ["closed", "silent"])
def test_a_worker_that_never_reached_redis_says_so_and_ends_in_order(
    number: signal.Signals, away: str, silent: int, tmp_path: Path
) -> None:
    port = silent if away == "silent" else free_port()
    log = tmp_path / "log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, f"redis://127.0.0.1:{port}/0"],
            cwd=REPOSITORY,
            stderr=out,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
    try:
        wait_for(lambda: "trying again" in log.read_text(), "the worker tries again")
        worker.send_signal(number)
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait(60)
