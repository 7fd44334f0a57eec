"""SIGKILL to every part at every moment of a step: the job ends by itself, with the numbers of an undisturbed run.

All runs begin from one checkpoint, for only then two runs are comparable. What is killed is started again, as a
container runtime does; nobody helps the job.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import redis as redis_client

from services.store.records import Hyperparameters, JobState, StartFrom
from tests.api_calls import write_model
from tests.fakes.fake_tuft import FakeTuft
from tests.redis_fixtures import RedisServer, redis_program
from tests.trainer_stack import REPOSITORY, TrainerStack, kill, wait_for

pytestmark = pytest.mark.slow

HYPER = Hyperparameters(max_steps=24, batch_size=4, learning_rate=1e-2, lora_rank=4, eval_every=8, checkpoint_every=8)
HOLD = 4000.0  #: milliseconds for which the server holds a moment open
RECOVERY = 60.0  #: seconds; on a busy machine a horse takes some to start


@dataclass
class World:
    """The parts, the checkpoint that all begin from, and the series that an undisturbed run makes from it."""

    stack: TrainerStack
    tuft: FakeTuft
    worker: subprocess.Popen[bytes]
    api: subprocess.Popen[bytes]
    start: StartFrom
    series: list[tuple[int, float]]

    def submit(self, hyperparameters: Hyperparameters = HYPER) -> str:
        return self.stack.submit(hyperparameters, start_from=self.start)

    def start_api(self) -> None:
        """The API, which has no part in a run: that is what its rows prove."""
        folder = self.stack.folder
        with (folder / "api.log").open("ab") as log:
            self.api = subprocess.Popen(
                [sys.executable, "-m", "services.preprocess", "--address", "127.0.0.1:0", "--metrics-port", "0"]
                + ["--models", str(folder / "models.toml"), "--port-file", str(folder / "port")],
                cwd=REPOSITORY,
                env=os.environ | self.stack.settings(),
                stdout=log,
                stderr=log,
            )
        self.stack.processes.append(self.api)

    def kill(self, victim: str) -> None:
        """SIGKILL, and what a container runtime does next."""
        if victim == "horse":
            kill(self.stack.horse(self.worker))
        elif victim in ("worker", "both"):
            horse = self.stack.horse(self.worker)
            kill(self.worker.pid)
            if victim == "both":
                kill(horse)
            self.worker.wait(10)
            self.worker = self.stack.worker()
        elif victim == "redis":
            self.stack.redis.kill()
            self.stack.redis.start()
        elif victim == "tuft":
            self.tuft.kill()
            self.tuft.start()
        else:
            kill(self.api.pid)
            self.api.wait(10)
            self.start_api()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    program = redis_program()
    assert program is not None
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "redis").mkdir()
    server = RedisServer(program, folder / "redis", fsync="always")
    server.start()
    with FakeTuft(folder / "tuft") as fake:
        environment = {"TURNLOOM_TICKET_GRACE": "3", "TURNLOOM_SUPERVISOR_INTERVAL": "0.5"}
        stack = TrainerStack(folder, server, fake, lease_ttl=2.0, environment=environment)
        write_model(folder / "model")
        (folder / "models.toml").write_text(f'[[models]]\nname = "small"\nsource = "{folder / "model"}"\n')
        try:
            stack.supervisor()
            worker = stack.worker()
            seed = stack.submit(replace(HYPER, max_steps=1))
            stack.wait(seed, JobState.SUCCEEDED)
            start = StartFrom(seed, stack.store.ledger.checkpoints(seed)[0].id)
            made = World(stack, fake, worker, worker, start, [])
            made.start_api()
            reference = made.submit()
            stack.wait(reference, JobState.SUCCEEDED)
            made.series = stack.series(reference)
            assert len(made.series) == HYPER.max_steps
            yield made
        finally:
            stack.close()
            server.stop()


def held(world: World, kind: str, at: int) -> Callable[[], bool]:
    """Orders the server to hold the `at`-th call of a kind, and says whether it has come."""
    before = len(world.tuft.calls(kind))
    world.tuft.fault(kind, "slow", at=at, times=1, ms=HOLD)
    return lambda: len(world.tuft.calls(kind)) >= before + at


def moment(world: World, name: str, job: Callable[[], str]) -> str:
    """Submits a job and returns its id at that moment of its life."""
    if name == "before submit":  # the evaluation after step 8 is under way, step 9 is not sent yet
        there = held(world, "forward", 5)  # probe and evaluation of step 0; probe of step 8, then its evaluation
    elif name == "between forward_backward and optim_step":
        there = held(world, "optim_step", 13)
    elif name == "while saving":
        there = held(world, "save_weights", 3)
    else:  # after saving
        there = held(world, "forward_backward", 19)
    job_id = job()
    wait_for(there, name, RECOVERY)
    if name == "after saving":
        wait_for(lambda: world.stack.job(job_id).last_checkpoint.endswith("s16"), "the checkpoint", RECOVERY)
    return job_id


MOMENTS = ("before submit", "between forward_backward and optim_step", "while saving", "after saving")


@pytest.mark.parametrize("name", MOMENTS)
@pytest.mark.parametrize("victim", ["horse", "worker", "both", "redis", "tuft", "api"])
def test_the_series_is_exact_whoever_is_killed_whenever(world: World, victim: str, name: str) -> None:
    world.tuft.clear_faults()
    job_id = moment(world, name, world.submit)
    begun = time.monotonic()
    world.kill(victim)
    world.tuft.clear_faults()
    job = world.stack.wait(job_id, JobState.SUCCEEDED, deadline=RECOVERY)
    assert world.stack.series(job_id) == world.series
    assert job.attempt <= 3
    if victim == "api":
        assert job.attempt == 1
    print(f"{victim}, {name}: attempts {job.attempt}, {time.monotonic() - begun:.1f} s")
