"""SIGKILL at random moments, and how soon a job goes on after one."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from dataclasses import replace
from functools import partial

import pytest

from services.store.connection import redis_time
from services.store.records import JobState
from tests.support.kill_fixtures import HYPER, LEASE, RECOVERY, World, held
from tests.support.trainer_stack import horses, kill, wait_for

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("TURNLOOM_TEST_KILLS", "50"))


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
        # Three attempts in a row without a step fail a job, as they should: every attempt may do at least one. So do
        # twenty that get no further: each eighth kill lets the job pass the next checkpoint first.
        wanted = world.stack.job(job_id).start_step + (1 if kills % 8 else hyper.checkpoint_every + 1)
        wait_for(
            lambda wanted=wanted: (
                world.stack.job(job_id).step >= wanted or world.stack.job(job_id).state is JobState.SUCCEEDED
            ),
            f"step {wanted}",
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
