"""SIGKILL to every part at every moment of a step: the job ends by itself, with the numbers of an undisturbed run.

All runs begin from one checkpoint, for only then two runs are comparable. What is killed is started again, as a
container runtime does; nobody helps the job.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest

from services.store.connection import redis_time
from services.store.records import Hyperparameters, JobState, StartFrom
from tests.fakes.fake_tuft import FakeTuft
from tests.support.api_calls import write_model
from tests.support.redis_fixtures import RedisServer, redis_program
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.trainer_parts import conversations
from tests.support.trainer_stack import REPOSITORY, TrainerStack, horses, kill, wait_for

pytestmark = pytest.mark.slow

HYPER = Hyperparameters(max_steps=24, batch_size=4, learning_rate=1e-2, lora_rank=4, eval_every=8, checkpoint_every=8)
HOLD = 240_000.0  #: milliseconds for which the server holds a moment open, unless the test lets go earlier
KILLS = int(os.environ.get("TURNLOOM_TEST_KILLS", "50"))
LEASE = 5.0  #: seconds
RECOVERY = 120.0  #: seconds; on a busy machine a horse takes some to start


@dataclass
class World:
    """The parts, the checkpoint that all begin from, and the series that an undisturbed run makes from it."""

    stack: TrainerStack
    tuft: FakeTuft
    supervisor: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes]
    api: subprocess.Popen[bytes]
    start: StartFrom
    series: list[tuple[int, float]]
    redis_disk: SmallDisk | None  #: None: this user may mount none
    logged: int = 0  #: characters of the workers' log when the last job was submitted

    def submit(self, hyperparameters: Hyperparameters = HYPER) -> str:
        return self.stack.submit(hyperparameters, start_from=self.start)

    def start_api(self) -> None:
        """The API, which has no part in a run: that is what its rows prove."""
        folder = self.stack.folder
        with (folder / "api.log").open("ab") as log:
            self.api = subprocess.Popen(
                [
                    *(sys.executable, "-m", "services.preprocess", "--address", "127.0.0.1:0", "--metrics-port", "0"),
                    *("--models", str(folder / "models.toml"), "--port-file", str(folder / "port")),
                ],
                cwd=REPOSITORY,
                env=os.environ | self.stack.settings(),
                stdout=log,
                stderr=log,
            )
        self.stack.processes.append(self.api)

    def kill(self, victim: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """SIGKILL, and what a container runtime does next; `meanwhile` happens while Redis is away."""
        if victim == "horse":
            kill(self.stack.horse(self.worker))
        elif victim in ("worker", "both"):
            horse = self.stack.horse(self.worker)
            kill(self.worker.pid)
            if victim == "both":
                with contextlib.suppress(ProcessLookupError):  # it ends with its worker anyway
                    kill(horse)
            self.worker.wait(60)
            self.worker = self.stack.worker()
        elif victim == "redis":
            self.stack.redis.kill()
            meanwhile()
            self.stack.redis.start()
        elif victim == "tuft":
            self.tuft.kill()
            self.tuft.start()
        else:
            kill(self.api.pid)
            self.api.wait(60)
            self.start_api()

    def let_go(self) -> None:
        """The server goes on with what it holds; returns when the run has noticed that Redis is not there."""
        self.tuft.clear_faults()
        wait_for(lambda: " waiting: " in self.stack.log()[self.logged :], "a record that waits for Redis", RECOVERY)

    def with_lease(self, seconds: float) -> None:
        """Ends supervisor and worker and starts them with another lease."""
        self.stack.environment["TURNLOOM_LEASE_TTL"] = str(seconds)
        for process in (self.supervisor, self.worker):
            kill(process.pid)
            process.wait(60)
        self.supervisor, self.worker = self.stack.supervisor(), self.stack.worker()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    program = redis_program()
    assert program is not None
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "redis").mkdir()
    environment = {"TURNLOOM_TICKET_GRACE": "3", "TURNLOOM_SUPERVISOR_INTERVAL": "0.5"}
    write_model(folder / "model")
    (folder / "models.toml").write_text(f'[[models]]\nname = "small"\nsource = "{folder / "model"}"\n')
    with small_disk(folder / "redis", 64) as disk, FakeTuft(folder / "tuft") as fake:
        server = RedisServer(program, folder / "redis", fsync="always")
        server.start()
        stack = TrainerStack(folder, server, fake, lease_ttl=LEASE, environment=environment)
        try:
            supervisor, worker = stack.supervisor(), stack.worker()
            seed = stack.submit(replace(HYPER, max_steps=1))
            stack.wait(seed, JobState.SUCCEEDED)
            start = StartFrom(seed, stack.store.ledger.checkpoints(seed)[0].id)
            made = World(stack, fake, supervisor, worker, worker, start, [], disk)
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
    world.tuft.clear_faults()
    if name == "before submit":  # the evaluation after step 8 is under way, step 9 is not sent yet
        there = held(world, "forward", 5)  # probe and evaluation of step 0; probe of step 8, then its evaluation
    elif name == "between forward_backward and optim_step":
        there = held(world, "optim_step", 13)
    elif name == "while saving":
        there = held(world, "save_weights", 3)
    else:  # after saving
        there = held(world, "forward_backward", 19)
    world.logged = len(world.stack.log())
    job_id = job()
    wait_for(there, name, RECOVERY)
    if name == "after saving":
        wait_for(lambda: world.stack.job(job_id).last_checkpoint.endswith("s16"), "the checkpoint", RECOVERY)
    return job_id


MOMENTS = ("before submit", "between forward_backward and optim_step", "while saving", "after saving")


@pytest.mark.parametrize("name", MOMENTS)
@pytest.mark.parametrize("victim", ["horse", "worker", "both", "redis", "tuft", "api"])
def test_the_series_is_exact_whoever_is_killed_whenever(world: World, victim: str, name: str) -> None:
    job_id = moment(world, name, world.submit)
    world.kill(victim, meanwhile=world.let_go)
    world.tuft.clear_faults()
    job = world.stack.wait(job_id, JobState.SUCCEEDED, deadline=RECOVERY)
    assert world.stack.series(job_id) == world.series
    assert job.attempt == (1 if victim in ("api", "redis") else 2)


@pytest.mark.parametrize("victim", ["horse", "both", "redis", "tuft"])
def test_a_mixture_goes_on_at_the_exact_conversation_of_each_dataset(world: World, victim: str) -> None:
    mix = [(conversations(7, seed=2), 0.7), (conversations(11, seed=3), 0.3)]
    world.tuft.clear_faults()
    clean = world.stack.submit(HYPER, start_from=world.start, mix=mix)
    world.stack.wait(clean, JobState.SUCCEEDED, deadline=RECOVERY)
    job_id = moment(world, MOMENTS[1], lambda: world.stack.submit(HYPER, start_from=world.start, mix=mix))
    world.kill(victim, meanwhile=world.let_go)
    world.tuft.clear_faults()
    job = world.stack.wait(job_id, JobState.SUCCEEDED, deadline=RECOVERY)
    undisturbed = world.stack.store.ledger.steps(clean)
    resumed = world.stack.store.ledger.steps(job_id)
    assert [(one.nll_sum, one.mix) for one in resumed] == [(one.nll_sum, one.mix) for one in undisturbed]
    assert job.effective_mix == world.stack.job(clean).effective_mix
    assert [sums.conversations for sums in job.effective_mix] == [64, 24]  # 4 epochs of 13 and 5, then 12 and 4


def keys_of(world: World, job_id: str) -> list[str]:
    """Keys that belong to a job and stay: its records. RQ's notes on a ticket that moved expire in a day."""
    redis = world.stack.store.redis
    return sorted(name.replace(job_id, "JOB") for name in redis.scan_iter(f"*{job_id}*") if redis.ttl(name) == -1)


@pytest.mark.timeout(2400)
def test_fifty_kills_at_random_moments_change_no_number_and_leave_nothing(world: World) -> None:
    world.tuft.clear_faults()
    world.with_lease(1.0)
    hyper = replace(HYPER, max_steps=200, eval_every=0, checkpoint_every=3)
    clean = world.submit(hyper)
    world.stack.wait(clean, JobState.SUCCEEDED, deadline=RECOVERY)
    draws = random.Random(0)
    # A step takes long enough to be hit at any of its moments, and 200 of them longer than fifty kills.
    slow = partial(world.tuft.fault, "optim_step", "slow", ms=300.0)
    slow()
    job_id = world.submit(hyper)
    kills = 0
    while kills < KILLS and world.stack.job(job_id).state is not JobState.SUCCEEDED:
        world.stack.wait(job_id, JobState.RUNNING, JobState.SUCCEEDED, deadline=RECOVERY)
        began = world.stack.job(job_id)
        # Three attempts in a row without a step fail a job, as they should: every attempt may do at least one.
        wait_for(
            lambda began=began: (
                world.stack.job(job_id).step > began.start_step or world.stack.job(job_id).state is JobState.SUCCEEDED
            ),
            "a step",
            RECOVERY,
        )
        threading.Event().wait(draws.uniform(0, 0.4))
        if world.stack.job(job_id).state is JobState.RUNNING:
            victim = draws.choice(["horse", "horse", "horse", "worker", "tuft", "redis"])
            world.kill(victim)
            kills += 1
            if victim == "tuft":  # a new server knows of no fault
                slow()
    world.tuft.clear_faults()
    world.stack.wait(job_id, JobState.SUCCEEDED, deadline=RECOVERY)
    assert kills == KILLS
    assert world.stack.series(job_id) == world.stack.series(clean)
    # RQ forgets a killed worker's ticket when its heartbeat is over, the supervisor's round comes, and its record ends.
    with contextlib.suppress(AssertionError):
        wait_for(lambda: keys_of(world, job_id) == keys_of(world, clean), "the end of all tickets", 240)
    assert keys_of(world, job_id) == keys_of(world, clean)
    wait_for(lambda: horses(world.worker.pid) == [], "the end of the horse")


def test_recovery_begins_within_twenty_seconds_of_a_kill_with_the_default_lease(world: World) -> None:
    world.tuft.clear_faults()
    world.with_lease(15.0)
    there = held(world, "optim_step", 13)
    job_id = world.submit()
    wait_for(there, "step 13", RECOVERY)
    killed = redis_time(world.stack.store.redis)
    kill(world.stack.horse(world.worker))
    wait_for(lambda: world.stack.job(job_id).attempt == 2, "the second attempt", RECOVERY)
    times = {event.type: event.time for event in world.stack.store.events.list(job_id, page_size=1000).items}
    assert times["WORKER_LOST"] - killed < 20
    assert times["RESUMED"] - times["WORKER_LOST"] < 40  # the next horse starts Python
    world.tuft.clear_faults()
    world.stack.wait(job_id, JobState.SUCCEEDED, deadline=RECOVERY)
    assert world.stack.series(job_id) == world.series
    world.with_lease(LEASE)


def test_a_redis_without_memory_for_a_while_costs_nothing(world: World) -> None:
    job_id = moment(world, MOMENTS[1], world.submit)
    world.stack.store.redis.config_set("maxmemory", "1")  # every write is refused
    world.let_go()
    world.stack.store.redis.config_set("maxmemory", "0")
    assert world.stack.wait(job_id, JobState.SUCCEEDED, deadline=RECOVERY).attempt == 1
    assert world.stack.series(job_id) == world.series


def test_a_full_disk_of_redis_costs_nothing(world: World) -> None:
    if world.redis_disk is None:
        pytest.skip("a disk of its own has to be mounted for this, which needs root")
    job_id = moment(world, MOMENTS[1], world.submit)
    world.stack.store.redis.config_set("appendfsync", "everysec")  # as in production; with "always" Redis ends itself
    world.redis_disk.fill()
    world.let_go()
    log = world.stack.log()
    world.redis_disk.empty()
    job = world.stack.wait(job_id, JobState.SUCCEEDED, deadline=RECOVERY)
    world.stack.store.redis.config_set("appendfsync", "always")
    assert "MISCONF" in log
    assert job.attempt == 1
    assert world.stack.series(job_id) == world.series
    world.stack.redis.kill()
    world.stack.redis.start()  # what it wrote around the full disk can be read
    assert world.stack.series(job_id) == world.series


def test_a_full_disk_of_the_store_is_waited_for(world: World) -> None:
    job_id = moment(world, MOMENTS[1], world.submit)
    place = world.stack.folder / "store" / "adapters" / job_id
    place.mkdir(exist_ok=True)  # a checkpoint may have been copied there already
    with small_disk(place, 1) as disk:
        if disk is None:
            world.tuft.clear_faults()
            pytest.skip("a disk of its own has to be mounted for this, which needs root")
        disk.fill()
        world.tuft.clear_faults()
        wait_for(lambda: "STORE_UNAVAILABLE" in world.stack.events(job_id), "the failed copy", RECOVERY)
        events = world.stack.store.events.list(job_id, page_size=1000).items
        assert any("has no room for" in event.message for event in events)
        assert world.stack.job(job_id).state is JobState.RUNNING
        disk.empty()
        job = world.stack.wait(job_id, JobState.SUCCEEDED, deadline=RECOVERY)
        assert {entry.name for entry in world.stack.store.objects.files(job.adapter_uri)} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
    assert world.stack.series(job_id) == world.series


def test_a_store_that_is_away_is_waited_for(world: World) -> None:
    world.tuft.clear_faults()
    place = world.stack.folder / "store" / "adapters"
    aside = place.with_name("adapters-aside")
    place.rename(aside)
    place.write_text("a file where a folder should be")
    job_id = world.submit()
    wait_for(lambda: "STORE_UNAVAILABLE" in world.stack.events(job_id), "the failed copy", RECOVERY)
    assert world.stack.job(job_id).state is JobState.RUNNING
    place.unlink()
    aside.rename(place)
    job = world.stack.wait(job_id, JobState.SUCCEEDED, deadline=RECOVERY)
    assert job.adapter_uri
    assert world.stack.series(job_id) == world.series
