"""The store's rows of the kill matrix over a real S3 API: what the bucket does in the middle of a run costs no number.

The bucket is moto's, behind a door that fails as stores fail (tests/support/s3_server.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from services.store.blobs.deadlines import ANSWER_SECONDS
from services.store.records import Hyperparameters, JobState, StartFrom
from tests.fakes.fake_tuft import FakeTuft
from tests.support.redis_fixtures import RedisServer, redis_program
from tests.support.s3_server import S3, s3_server
from tests.support.trainer_parts import conversations
from tests.support.trainer_stack import TrainerStack, kill, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HYPER = Hyperparameters(max_steps=24, batch_size=4, learning_rate=1e-2, lora_rank=4, eval_every=8, checkpoint_every=8)
QUICK = {"config_kwargs": {"connect_timeout": 2, "read_timeout": 2, "retries": {"max_attempts": 1}}}
RECOVERY = 120.0  #: seconds


@dataclass
class World:
    """The parts, the checkpoint that all begin from, and the series that an undisturbed run makes from it."""

    stack: TrainerStack
    tuft: FakeTuft
    s3: S3
    start: StartFrom
    series: list[tuple[int, float]]

    def submit(self) -> str:
        """A job that is held before step 13, with a checkpoint behind it and two before it."""
        before = len(self.tuft.calls("optim_step"))
        self.tuft.fault("optim_step", "slow", at=13, times=1, ms=240_000.0)
        job = self.stack.submit(HYPER, start_from=self.start)
        wait_for(lambda: len(self.tuft.calls("optim_step")) >= before + 13, "step 13", RECOVERY)
        return job

    def ends_undisturbed(self, job_id: str, attempts: int = 1) -> None:
        """The job succeeds with its adapter in the bucket and the numbers of an undisturbed run."""
        job = self.stack.wait(job_id, JobState.SUCCEEDED, deadline=RECOVERY)
        assert job.attempt == attempts
        assert self.stack.series(job_id) == self.series
        assert {entry.name for entry in self.stack.store.objects.files(job.adapter_uri)} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        assert not [name for name in self.s3.names() if name.endswith(".part")]
        assert self.s3.open_uploads() == 0

    @contextmanager
    def while_it(self, mode: str) -> Iterator[None]:
        self.s3.door.mode = mode
        try:
            yield
        finally:
            self.s3.door.mode = ""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    program = redis_program()
    assert program is not None
    folder = tmp_path_factory.mktemp("matrix-s3")
    (folder / "redis").mkdir()
    server = RedisServer(program, folder / "redis")
    server.start()
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as s3, FakeTuft(folder / "tuft") as fake:
        environment = {
            "FSSPEC_S3": json.dumps(QUICK),
            "TURNLOOM_STORE_CACHE": str(folder / "cache"),
            "TURNLOOM_SUPERVISOR_INTERVAL": "0.5",
            "TURNLOOM_TICKET_GRACE": "3",
            "TURNLOOM_REDIS_PATIENCE": "120",
        }
        stack = TrainerStack(folder, server, fake, lease_ttl=5.0, environment=environment, bucket=s3.url)
        try:
            stack.supervisor()
            stack.worker()
            seed = stack.submit(replace(HYPER, max_steps=1))
            stack.wait(seed, JobState.SUCCEEDED)
            start = StartFrom(seed, stack.store.ledger.checkpoints(seed)[0].id)
            reference = stack.submit(HYPER, start_from=start)
            stack.wait(reference, JobState.SUCCEEDED)
            yield World(stack, fake, s3, start, stack.series(reference))
        finally:
            stack.close()
            server.stop()


@pytest.mark.parametrize("mode", ["full", "wrong key", "broken", "mute", "deaf"])
def test_a_bucket_that_takes_nothing_is_waited_for(world: World, mode: str) -> None:
    job_id = world.submit()
    with world.while_it(mode):
        world.tuft.clear_faults()
        # No step waits for the bucket: the last is there before a request to a mute one is given up.
        wait_for(lambda: world.stack.job(job_id).step == HYPER.max_steps, "training goes on", ANSWER_SECONDS * 0.8)
        wait_for(lambda: "STORE_UNAVAILABLE" in world.stack.events(job_id), "the failed copy", RECOVERY)
        assert world.stack.job(job_id).state is JobState.RUNNING
    world.ends_undisturbed(job_id)


def test_a_dataset_that_breaks_off_on_its_way_is_read_again(world: World) -> None:
    with world.while_it("cut"):
        hyper = replace(HYPER, eval_every=0)
        job_id = world.stack.submit(hyper, start_from=world.start, train=conversations(12, seed=5), test=())
        wait_for(lambda: "STORE_UNAVAILABLE" in world.stack.events(job_id), "the broken dataset", RECOVERY)
    job = world.stack.wait(job_id, JobState.SUCCEEDED, deadline=RECOVERY)
    assert [step for step, _ in world.stack.series(job_id)] == list(range(1, HYPER.max_steps + 1))
    assert job.adapter_uri


@pytest.mark.parametrize("mode", ["", "mute"])
def test_a_trainer_that_is_killed_while_the_bucket_is_as_it_is_goes_on_at_the_exact_step(
    world: World, mode: str
) -> None:
    job_id = world.submit()
    with world.while_it(mode):
        worker = world.stack.processes[-1]
        kill(world.stack.horse(worker))
        world.tuft.clear_faults()
        wait_for(lambda: world.stack.job(job_id).attempt == 2, "the second attempt", RECOVERY)
    world.ends_undisturbed(job_id, attempts=2)
