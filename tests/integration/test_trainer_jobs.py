"""Whole jobs: ticket, worker, horse, ledger, store, on the fake TuFT and a real Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.store.blobs.objects import Objects
from services.store.errors import Fenced
from services.store.queueing.workers import count
from services.store.records import Control, Hyperparameters, JobState, StartFrom, StepRecord
from services.trainer.batches.batching import MOST_CALL_TOKENS
from services.trainer.host import probe_host
from services.trainer.settings import from_environment
from tests.fakes.fake_tuft import FakeTuft
from tests.support.redis_fixtures import RedisServer
from tests.support.silent_proxy import SilentProxy
from tests.support.trainer_parts import conversations
from tests.support.trainer_stack import HOST, TrainerStack, horses, stack_over_fake_tuft, wait_for
from turnloom.embedded.ports import free_port

HYPER = Hyperparameters(max_steps=12, batch_size=4, learning_rate=1e-2, lora_rank=4, eval_every=4, checkpoint_every=4)
HOLD = 120_000.0  #: milliseconds; the test lets go earlier
LONG = replace(HYPER, max_steps=100_000, eval_every=0, checkpoint_every=5)


stack = pytest.fixture(stack_over_fake_tuft)


def leave(worker: subprocess.Popen[bytes]) -> None:
    """Ends a worker, which may no longer look after its host."""
    worker.terminate()
    worker.wait(60)


@pytest.fixture
def packing(tmp_path: Path, redis_server: RedisServer, packing_tuft: FakeTuft) -> Iterator[TrainerStack]:
    """The same with a TuFT that packs."""
    made = TrainerStack(tmp_path, redis_server, packing_tuft)
    yield made
    made.close()


def test_a_job_trains_evaluates_saves_and_leaves_nothing_on_the_server(stack: TrainerStack) -> None:
    job_id = stack.submit(HYPER)
    stack.worker()
    job = stack.wait(job_id, JobState.SUCCEEDED)
    assert (job.step, job.test_step, job.attempt) == (12, 12, 1)
    assert job.test_nll is not None
    assert [step for step, _ in stack.series(job_id)] == list(range(1, 13))
    objects = Objects(str(stack.folder / "store"))
    assert [entry.name for entry in objects.files(job.adapter_uri)] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    kept = stack.store.ledger.checkpoints(job_id)
    assert [one.step for one in kept] == [4, 8, 12]  # the best is the last; two more are kept
    assert all(one.stored and one.sha256 for one in kept)
    assert job.best_checkpoint == job.last_checkpoint == kept[-1].id
    wait_for(lambda: "ADAPTER_RELEASED" in stack.events(job_id), "the release")
    assert stack.tuft.state()["runs"] == {}
    lines = [json.loads(line) for line in stack.log().splitlines()]
    assert any(line.get("job") == job_id and line.get("attempt") == 1 for line in lines)


def test_a_job_can_begin_from_another_jobs_checkpoint_after_its_release(stack: TrainerStack) -> None:
    stack.worker()
    first = stack.submit(HYPER)
    stack.wait(first, JobState.SUCCEEDED)
    wait_for(lambda: "ADAPTER_RELEASED" in stack.events(first), "the release")
    middle = next(one for one in stack.store.ledger.checkpoints(first) if one.step == 8)
    again = stack.submit(replace(HYPER, max_steps=4), start_from=StartFrom(first, middle.id))
    plain = stack.submit(replace(HYPER, max_steps=4), start_from=StartFrom(first, middle.id, weights_only=True))
    stack.wait(again, JobState.SUCCEEDED)
    stack.wait(plain, JobState.SUCCEEDED)
    initial = stack.store.ledger.initial(again)
    assert initial is not None
    assert initial.test_nll_sum == next(
        record.test_nll_sum for record in stack.store.ledger.steps(first) if record.step == 8
    )
    assert stack.series(again)[0] == stack.series(plain)[0]  # the same weights
    assert stack.series(again)[3] != stack.series(plain)[3]  # another optimizer


def test_a_cancelled_job_saves_first_and_its_series_ends_at_the_checkpoint(stack: TrainerStack) -> None:
    job_id = stack.submit(LONG)
    stack.worker()
    stack.wait_step(job_id, 7)
    stack.store.jobs.cancel(job_id)
    job = stack.wait(job_id, JobState.CANCELLED)
    last = stack.store.ledger.checkpoint(job_id)
    assert last.step == job.step == len(stack.series(job_id))
    assert last.stored


def test_a_paused_job_goes_on_at_the_exact_step_after_its_adapter_was_released(stack: TrainerStack) -> None:
    reference = stack.submit(HYPER)
    stack.worker()
    stack.wait(reference, JobState.SUCCEEDED)
    start = StartFrom(reference, stack.store.ledger.checkpoints(reference)[0].id)
    hyper = replace(HYPER, max_steps=120, checkpoint_every=0, eval_every=0)
    whole = stack.submit(hyper, start_from=start)
    stack.wait(whole, JobState.SUCCEEDED)
    stack.tuft.fault("optim_step", "slow", at=50, times=1, ms=HOLD)  # so that it can't end before it is paused
    paused = stack.submit(hyper, start_from=start)
    stack.wait_step(paused, 3)
    stack.store.jobs.pause(paused)
    stack.tuft.clear_faults()
    stack.wait(paused, JobState.PAUSED)
    wait_for(lambda: stack.tuft.state()["runs"] == {}, "the release")
    at = stack.job(paused).step
    assert 3 <= at < 120
    stack.store.tickets.enqueue(stack.store.jobs.resume(paused))
    stack.wait(paused, JobState.SUCCEEDED)
    assert stack.series(paused) == stack.series(whole)
    assert "RESTORED" in stack.events(paused)


def test_a_job_leaves_the_files_of_its_kept_checkpoints_alone(stack: TrainerStack) -> None:
    job_id = stack.submit(replace(HYPER, max_steps=40))
    stack.tuft.fault("optim_step", "slow", at=10, times=1, ms=HOLD)
    stack.worker()
    stack.wait_step(job_id, 8)
    stack.store.jobs.pause(job_id)
    stack.tuft.clear_faults()
    stack.wait(job_id, JobState.PAUSED)
    wait_for(lambda: stack.tuft.state()["runs"] == {}, "the release, so that it goes on from its files")
    stack.store.tickets.enqueue(stack.store.jobs.resume(job_id))
    stack.wait(job_id, JobState.SUCCEEDED)
    wait_for(lambda: stack.events(job_id).count("ADAPTER_RELEASED") == 2, "the release")
    assert {path.name for path in stack.tuft.checkpoint_dir.glob("*/*")} == {
        one.id for one in stack.store.ledger.checkpoints(job_id)
    }


def test_a_deleted_job_leaves_no_files_on_its_host_and_those_of_other_jobs_stay(stack: TrainerStack) -> None:
    worker = stack.worker()
    deleted, other = stack.submit(HYPER), stack.submit(HYPER)
    stack.wait(other, JobState.SUCCEEDED)
    begun = stack.submit(HYPER, start_from=StartFrom(deleted))
    stack.wait(begun, JobState.SUCCEEDED)
    leave(worker)
    kept = {one.id for job in (other, begun) for one in stack.store.ledger.checkpoints(job)}
    gone = {one.path for one in stack.store.ledger.checkpoints(deleted)}
    stack.store.jobs.delete(deleted)
    assert set(stack.store.ledger.left_states()) == gone != set()
    assert probe_host.run(from_environment(stack.settings()))
    assert {path.name for path in stack.tuft.checkpoint_dir.glob("*/*")} == kept
    assert stack.store.ledger.left_states() == []


def test_what_a_deleted_job_has_on_a_server_that_is_away_goes_when_it_is_back(stack: TrainerStack) -> None:
    (stack.folder / "store").mkdir()
    (stack.folder / "store" / "adapters").touch()  # nothing can be copied, so the run stays on the server
    stack.environment |= {"TURNLOOM_REDIS_PATIENCE": "0.2"}
    worker = stack.worker()
    job_id = stack.submit(HYPER)
    stack.wait(job_id, JobState.FAILED)
    leave(worker)
    stack.store.jobs.delete(job_id)
    settings = from_environment(stack.settings())
    assert probe_host.run(replace(settings, tuft_url=f"http://127.0.0.1:{free_port()}"))
    there = list(stack.tuft.checkpoint_dir.glob("*/*"))
    assert len(stack.store.ledger.left_states()) == len(there) > 0
    assert stack.tuft.state()["runs"] != {}
    assert probe_host.run(settings)
    assert (stack.store.ledger.left_states(), list(stack.tuft.checkpoint_dir.glob("*/*"))) == ([], [])
    assert stack.tuft.state()["runs"] == {}


def test_a_redis_that_swallows_bytes_does_not_hold_up_training_and_loses_no_step(stack: TrainerStack) -> None:
    reference = stack.submit(HYPER)
    worker = stack.worker()
    stack.wait(reference, JobState.SUCCEEDED)
    start = StartFrom(reference, stack.store.ledger.checkpoints(reference)[0].id)
    hyper = replace(HYPER, max_steps=600, checkpoint_every=150, eval_every=0)
    whole = stack.submit(hyper, start_from=start)
    stack.wait(whole, JobState.SUCCEEDED)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0
    with SilentProxy(stack.redis.port) as proxy:
        # It is silent for as long as 400 steps take.
        stack.environment |= {"TURNLOOM_REDIS_URL": proxy.url, "TURNLOOM_REDIS_PATIENCE": "240"}
        stack.worker()
        done = len(stack.tuft.calls("optim_step"))
        stack.tuft.fault("optim_step", "slow", at=50, times=1, ms=HOLD)
        silenced = stack.submit(hyper, start_from=start)
        stack.wait_step(silenced, 3)
        proxy.silent.set()
        stack.tuft.clear_faults()
        wait_for(lambda: len(stack.tuft.calls("optim_step")) >= done + 400, "400 steps while Redis is silent")
        assert stack.job(silenced).step <= 60
        proxy.silent.clear()
        job = stack.wait(silenced, JobState.SUCCEEDED)
    assert job.attempt == 1
    assert stack.series(silenced) == stack.series(whole)


def test_sigterm_saves_and_requeues_at_the_front_and_the_next_worker_goes_on(stack: TrainerStack) -> None:
    job_id = stack.submit(LONG)
    waiting = stack.submit(HYPER)
    worker = stack.worker()
    stack.wait_step(job_id, 7)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0
    job = stack.wait(job_id, JobState.QUEUED)
    assert stack.store.ledger.checkpoint(job_id).step == job.step
    assert stack.store.tickets.waiting(HOST) == [f"{job_id}-a2", f"{waiting}-a1"]
    assert "PREEMPTED" in stack.events(job_id)
    stack.worker()
    stack.wait_step(job_id, job.step + 5)
    stack.store.jobs.cancel(job_id)
    assert stack.wait(job_id, JobState.CANCELLED).attempt == 2
    assert [step for step, _ in stack.series(job_id)] == list(range(1, stack.job(job_id).step + 1))


def test_a_job_that_can_not_be_moved_says_why_and_goes_on_where_it_is(stack: TrainerStack) -> None:
    stack.environment |= {"TURNLOOM_STORE_CHECKPOINTS": "0", "TURNLOOM_REDIS_PATIENCE": "1"}
    job_id = stack.submit(LONG)
    adapters = stack.folder / "store" / "adapters"
    adapters.touch()  # where a folder has to be
    stack.worker()
    stack.wait_step(job_id, 3)
    stack.store.jobs.ask_move(job_id, "")
    wait_for(lambda: stack.job(job_id).attempt == 2, "the next attempt, on the same host")
    assert "NOT_MOVED" in stack.events(job_id)
    told = [one.message for one in stack.store.events.list(job_id, page_size=1000).items if one.type == "PREEMPTED"]
    assert told[0].startswith("The worker had to leave, and the job could not be moved: ")
    assert str(adapters) in told[0]
    adapters.unlink()
    stack.store.jobs.cancel(job_id)
    stack.wait(job_id, JobState.CANCELLED)


def test_sigterm_while_the_server_is_away_gives_the_job_back(stack: TrainerStack) -> None:
    stack.tuft.kill()
    job_id = stack.submit(HYPER)
    worker = stack.worker()
    wait_for(lambda: "WAITING_FOR_BACKEND" in stack.events(job_id), "the wait")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0
    assert stack.wait(job_id, JobState.QUEUED).attempt == 1


def test_an_attempt_that_is_replaced_can_commit_nothing(stack: TrainerStack) -> None:
    job_id = stack.submit(LONG)
    worker = stack.worker()
    stack.wait_step(job_id, 7)
    horse = stack.horse(worker)
    os.kill(horse, signal.SIGSTOP)  # a host that hangs: its lease runs out, it knows nothing of it
    wait_for(lambda: stack.store.jobs.expire(job_id), "the end of the lease")
    worker_two = stack.worker()
    stack.store.tickets.enqueue(stack.job(job_id))
    stack.wait(job_id, JobState.RUNNING)
    stack.wait_step(job_id, stack.job(job_id).step + 3)
    os.kill(horse, signal.SIGCONT)
    wait_for(lambda: horse not in horses(worker.pid), "the end of the fenced horse")
    with pytest.raises(Fenced):
        stack.store.jobs.renew(job_id, 1)
    late = stack.store.ledger.commit_step(job_id, StepRecord(step=1, attempt=1, nll_sum=1.0, weight_sum=1.0))
    assert late.outcome.value == "fenced"
    stack.store.jobs.cancel(job_id)
    stack.wait(job_id, JobState.CANCELLED)
    records = stack.store.ledger.steps(job_id, 1, 100_000)
    assert [record.step for record in records] == list(range(1, len(records) + 1))
    assert [record.attempt for record in records] == sorted(record.attempt for record in records)
    assert worker_two.poll() is None


def test_an_attempt_that_is_replaced_before_its_first_checkpoint_leaves_no_run_on_the_server(
    stack: TrainerStack,
) -> None:
    stack.tuft.fault("forward", "slow", times=1, ms=HOLD)  # of the first checkpoint's probe
    job_id = stack.submit(replace(HYPER, eval_every=0), test=())
    worker = stack.worker()
    wait_for(lambda: bool(stack.tuft.calls("forward")), "a run that has saved nothing")
    horse = stack.horse(worker)
    assert stack.tuft.state()["runs"]
    stack.redis.flush()  # what a Redis that comes back empty knows of the job
    wait_for(lambda: horse not in horses(worker.pid), "the end of the fenced horse")
    stack.tuft.clear_faults()
    wait_for(lambda: stack.tuft.state()["runs"] == {}, "the release")
    assert job_id in stack.log()


def test_out_of_memory_halves_the_calls_until_they_fit_and_each_attempt_leaves_the_server(stack: TrainerStack) -> None:
    stack.tuft.fault("forward_backward", "oom", above_tokens=60)
    job_id = stack.submit(replace(HYPER, max_tokens_per_call=256))
    stack.worker()
    job = stack.wait(job_id, JobState.SUCCEEDED, deadline=120)
    assert "OUT_OF_MEMORY" in stack.events(job_id)
    last = stack.store.ledger.checkpoint(job_id)
    assert 0 < last.max_tokens_per_call <= 64
    assert job.attempt > 2
    assert [step for step, _ in stack.series(job_id)] == list(range(1, 13))
    wait_for(lambda: stack.tuft.state()["runs"] == {}, "the release of every attempt's run")


def test_a_server_that_packs_gets_real_tokens_and_its_job_says_so(packing: TrainerStack) -> None:
    packing.tuft.fault("turnloom/acceleration", "starting", times=2)
    job_id = packing.submit(HYPER)
    packing.worker()
    packing.wait(job_id, JobState.SUCCEEDED)
    assert "ACCELERATED" in packing.events(job_id)
    records = packing.store.ledger.steps(job_id)
    assert all(record.accelerated for record in records)
    calls = packing.tuft.calls("forward_backward")
    assert len(calls) == sum(record.calls for record in records)
    assert any(call["tokens"] < call["padded_tokens"] for call in calls)  # nothing was filled up
    assert all(call["tokens"] <= 64 for call in calls)
    assert sum(call["tokens"] + call["rows"] for call in calls) == sum(record.tokens for record in records)
    assert any(call["tokens"] < call["padded_tokens"] for call in packing.tuft.calls("forward"))

    def known() -> bool:
        host = packing.store.hosts.get(HOST)
        return host is not None and [(one.accelerated, one.max_tokens_per_pass) for one in host.models] == [(True, 16)]

    wait_for(known, "the host's record")


def test_running_out_of_memory_on_a_server_that_packs_halves_the_real_tokens(packing: TrainerStack) -> None:
    packing.tuft.fault("forward_backward", "oom", above_tokens=40)
    job_id = packing.submit(HYPER)
    packing.worker()
    packing.wait(job_id, JobState.SUCCEEDED)
    last = packing.store.ledger.checkpoint(job_id)
    assert (last.packed, last.max_tokens_per_call) == (True, 32)
    done = [call for call in packing.tuft.calls("forward_backward") if call["outcome"] == "ok"]
    assert max(call["tokens"] for call in done) <= 32 < max(call["padded_tokens"] for call in done)


def test_a_budget_of_real_tokens_says_nothing_to_a_server_that_pads(packing: TrainerStack) -> None:
    job_id = packing.submit(LONG)
    worker = packing.worker()
    packing.wait_step(job_id, 7)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0
    before = packing.store.ledger.checkpoint(job_id)
    assert (before.packed, before.max_tokens_per_call) == (True, 64)
    tuft = packing.tuft
    tuft.kill()
    assert isinstance(tuft, FakeTuft)
    tuft.packs = 0
    tuft.start()
    packing.worker()
    packing.wait_step(job_id, before.step + 10)
    packing.store.jobs.cancel(job_id)
    packing.wait(job_id, JobState.CANCELLED)
    after = packing.store.ledger.checkpoint(job_id)
    assert (after.packed, after.max_tokens_per_call) == (False, MOST_CALL_TOKENS)
    assert [record.accelerated for record in packing.store.ledger.steps(job_id)][before.step - 1 : before.step + 1] == [
        True,
        False,
    ]
    assert "NOT_ACCELERATED" in packing.events(job_id)


def test_one_row_that_does_not_fit_ends_the_job_with_a_hint(stack: TrainerStack) -> None:
    stack.tuft.fault("forward_backward", "oom", above_tokens=0)
    job_id = stack.submit(replace(HYPER, max_tokens_per_call=25))
    stack.worker()
    job = stack.wait(job_id, JobState.FAILED, deadline=120)
    assert job.error is not None
    assert (job.error.code, job.error.hint) == (
        "OUT_OF_MEMORY",
        "Lower max_length first, then batch_size, then lora_rank.",
    )


def test_a_loss_that_is_not_a_number_fails_the_job_and_keeps_the_last_good_checkpoint(stack: TrainerStack) -> None:
    stack.tuft.fault("forward_backward", "nan", at=7)
    job_id = stack.submit(HYPER)
    stack.worker()
    job = stack.wait(job_id, JobState.FAILED)
    assert job.error is not None
    assert job.error.code == "NON_FINITE_LOSS"
    assert "step 7" in job.error.message
    last = stack.store.ledger.checkpoint(job_id)
    assert (last.step, last.stored) == (4, True)
    stack.tuft.clear_faults()
    stack.store.tickets.enqueue(stack.store.jobs.resume(job_id))
    stack.wait(job_id, JobState.SUCCEEDED)
    assert [step for step, _ in stack.series(job_id)] == list(range(1, 13))


@pytest.mark.parametrize("fault", ["nan", "fail_422"])
def test_a_state_that_was_saved_and_never_recorded_leaves_no_files(stack: TrainerStack, fault: str) -> None:
    stack.tuft.fault("forward", fault, at=3, times=1)  # the probe of a checkpoint that the server has saved
    job_id = stack.submit(replace(HYPER, eval_every=0), test=())
    stack.worker()
    if fault == "nan":
        assert stack.wait(job_id, JobState.FAILED).error is not None
        stack.store.tickets.enqueue(stack.store.jobs.resume(job_id))
    job = stack.wait(job_id, JobState.SUCCEEDED)
    assert job.attempt == 2
    wait_for(lambda: "ADAPTER_RELEASED" in stack.events(job_id), "the release")
    assert {path.name for path in stack.tuft.checkpoint_dir.glob("*/*")} == {
        one.id for one in stack.store.ledger.checkpoints(job_id)
    }


@pytest.mark.parametrize(
    ("environment", "model", "code"),
    [
        ({"TURNLOOM_TUFT_API_KEY": "tml-wrong"}, "", "KEY_REJECTED"),
        ({}, "no/such-model", "MODEL_NOT_SERVED"),
    ],
)
def test_what_can_not_work_fails_in_seconds_with_a_hint(
    stack: TrainerStack, environment: dict[str, str], model: str, code: str
) -> None:
    stack.environment.update(environment)
    job_id = stack.submit(HYPER, model=model)
    stack.worker()
    job = stack.wait(job_id, JobState.FAILED)
    assert job.error is not None
    assert job.attempt == 1
    assert job.error.code == code
    assert job.error.hint
    assert "tml-wrong" not in stack.log() + job.error.message


def test_rows_that_max_length_empties_are_reported_and_nothing_left_is_an_error(stack: TrainerStack) -> None:
    cut = stack.submit(replace(HYPER, max_length=10))
    nothing = stack.submit(replace(HYPER, max_length=2))
    stack.worker()
    stack.wait(cut, JobState.SUCCEEDED)
    told = [one.message for one in stack.store.events.list(cut, page_size=1000).items if one.type == "MAX_LENGTH_CUT"]
    spec = stack.job(cut).spec
    for dataset, sentence in zip((spec.training_dataset, spec.test_dataset), told, strict=True):
        assert f" of {dataset} by " in sentence
    job = stack.wait(nothing, JobState.FAILED)
    assert job.error is not None
    assert job.error.code == "DATASET_UNUSABLE"


def test_three_attempts_without_a_step_fail_the_job_with_the_last_error_and_free_the_server(
    stack: TrainerStack,
) -> None:
    stack.environment["TURNLOOM_CALL_DEADLINE"] = "4"
    stack.tuft.fault("forward_backward", "dropped")
    job_id = stack.submit(HYPER)
    stack.worker()
    job = stack.wait(job_id, JobState.FAILED)
    assert job.attempt == 3
    assert job.error is not None
    assert job.error.code == "SERVER_UNREACHABLE"
    assert "NO_PROGRESS" in stack.events(job_id)
    wait_for(lambda: stack.tuft.state()["runs"] == {}, "the release")
    stack.tuft.clear_faults()
    stack.store.tickets.enqueue(stack.store.jobs.resume(job_id))
    assert stack.wait(job_id, JobState.SUCCEEDED).step == 12


def test_several_workers_share_one_server_and_each_run_is_right_alone(stack: TrainerStack) -> None:
    stack.environment["TURNLOOM_CALL_DEADLINE"] = "120"  # a job is held until another has begun
    stack.worker()
    seed = stack.submit(replace(HYPER, max_steps=1))
    stack.wait(seed, JobState.SUCCEEDED)
    start = StartFrom(seed, stack.store.ledger.checkpoints(seed)[0].id)
    different = [replace(HYPER, max_steps=30, seed=number, learning_rate=0.01 * (number + 1)) for number in range(3)]
    alone = [stack.submit(hyper, start_from=start) for hyper in different]  # one worker: one after the other
    for job_id in alone:
        stack.wait(job_id, JobState.SUCCEEDED, deadline=120)
    stack.worker()
    wait_for(lambda: count(stack.store.redis, [f"train.{HOST}"]) == [2], "the second worker")
    begun = len(stack.tuft.calls("optim_step"))
    stack.tuft.fault("optim_step", "slow", ms=500.0)
    stack.tuft.fault("optim_step", "late", ms=HOLD)  # none goes on while another begins
    together = [stack.submit(hyper, start_from=start) for hyper in different]
    wait_for(lambda: len(stack.tuft.calls("optim_step")) == begun + 2, "two at once, each held at its first step")
    stack.tuft.clear_faults("late")
    stack.wait_step(together[1], 3)
    assert stack.job(together[0]).state is JobState.RUNNING
    stack.tuft.clear_faults()
    for job_id in together:
        stack.wait(job_id, JobState.SUCCEEDED, deadline=120)
    assert [stack.series(job_id) for job_id in together] == [stack.series(job_id) for job_id in alone]
    assert len({tuple(stack.series(job_id)) for job_id in alone}) == 3


def test_a_pause_of_redis_costs_nothing(stack: TrainerStack) -> None:
    job_id = stack.submit(replace(HYPER, max_steps=400, eval_every=0, checkpoint_every=50))
    stack.worker()
    stack.wait_step(job_id, 10)
    stack.redis.restart()
    job = stack.wait(job_id, JobState.SUCCEEDED)
    assert job.attempt == 1
    assert [step for step, _ in stack.series(job_id)] == list(range(1, 401))
    assert job.control is Control.NONE


def test_training_data_is_cut_to_conversations_not_rows(stack: TrainerStack) -> None:
    job_id = stack.submit(replace(HYPER, max_steps=None, epochs=2), train=conversations(10))
    stack.worker()
    assert stack.wait(job_id, JobState.SUCCEEDED).step == 6


def test_a_mixture_trains_its_datasets_by_weight_and_the_ledger_has_the_nll_of_each(stack: TrainerStack) -> None:
    mix = [(conversations(6, seed=2), 0.7), (conversations(4, seed=3), 0.3)]
    job_id = stack.submit(replace(HYPER, max_steps=None, epochs=2, batch_size=5), mix=mix)
    stack.worker()
    job = stack.wait(job_id, JobState.SUCCEEDED)
    records = stack.store.ledger.steps(job_id)
    assert [[sums.conversations for sums in record.mix] for record in records] == [[4, 1], [3, 2]] * 2
    for record in records:
        assert sum(sums.nll for sums in record.mix) == pytest.approx(record.nll_sum, rel=1e-12)
        assert sum(sums.weight for sums in record.mix) == record.weight_sum
        assert sum(sums.tokens for sums in record.mix) == record.tokens
    assert [sums.conversations for sums in job.effective_mix] == [14, 6]
    assert sum(sums.nll for sums in job.effective_mix) == pytest.approx(job.effective.nll, rel=1e-12)
    assert job.work_mix == job.effective_mix
