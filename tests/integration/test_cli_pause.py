"""A running job is paused and resumed from the command line, on a real worker and the fake TuFT."""

from __future__ import annotations

from pathlib import Path

from services.store.records import JobState
from tests.support.api_calls import Start
from tests.support.cli_runs import turnloom, write_chats
from tests.support.trainer_stack import TrainerStack, wait_for


def test_a_running_job_is_paused_and_resumed_and_trains_each_step_once(
    start_api: Start, stack: TrainerStack, tmp_path: Path
) -> None:
    address = start_api(stack.redis.url).address
    stack.tuft.fault("forward_backward", "slow", at=8, ms=120_000)  # or until it is cleared
    stack.worker()
    stack.supervisor()
    wait_for(lambda: any(host.backend_up for host in stack.store.hosts.list()), "the host's record")
    chats = write_chats(tmp_path / "chats.jsonl", "hello", "good day", copies=12)
    words = ("train", chats, "--steps", 20, "--batch-size", 4, "--rank", 4, "--checkpoint-every", 0)
    job = turnloom(address, *words, "--detach", "--json").document["id"]
    stack.wait_step(job, 3)
    paused = turnloom(address, "pause", job)
    assert (paused.code, paused.out) == (0, f"{job} PAUSING\n")
    stack.tuft.clear_faults()
    stack.wait(job, JobState.PAUSED)
    (shown,) = turnloom(address, "jobs", "--state", "paused", "--json").document
    at = shown["progress"]["step"]
    assert 3 <= at < 20
    resumed = turnloom(address, "resume", job)
    assert (resumed.code, resumed.out) == (0, f"{job} QUEUED\n")
    watched = turnloom(address, "watch", job)
    assert watched.code == 0, watched.err
    assert f"SUCCEEDED {job}: 20 of 20 steps" in watched.out
    steps = turnloom(address, "steps", job, "--json").lines
    assert [step["step"] for step in steps] == list(range(1, 21))
    assert [step["attempt"] for step in steps] == [1] * at + [2] * (20 - at)
