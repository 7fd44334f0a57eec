"""SIGKILL to every part at every moment of a step: the job ends by itself, with the numbers of an undisturbed run.

The same of a Redis and a store that are full or away. test_random_kills.py kills at moments that nobody chose.
"""

from __future__ import annotations

from functools import partial

import pytest

from services.store.records import JobState
from tests.support.kill_fixtures import HYPER, MOMENTS, RECOVERY, World, moment
from tests.support.small_disk import small_disk
from tests.support.trainer_parts import conversations
from tests.support.trainer_stack import wait_for

pytestmark = pytest.mark.slow


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
    checkpoints = partial(world.stack.store.ledger.checkpoints, job_id)
    copied = "the copy of step 8's checkpoint"  # a disk mounted under one that is being made would be another failure
    wait_for(lambda: any(one.step == 8 and one.stored for one in checkpoints()), copied, RECOVERY)
    with small_disk(world.stack.folder / "store" / "adapters" / job_id, 1) as disk:
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
