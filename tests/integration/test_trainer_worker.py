"""The worker on a GPU host: its processes, its settings, its host's record, and what it finds out about itself."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from services.preprocess.jobs.diagnosis import _identities
from services.store.queueing.workers import count, registered
from services.store.records import Hyperparameters, JobState
from tests.support.rq_workers import age
from tests.support.trainer_stack import HOST, REPOSITORY, TrainerStack, kill, stack_over_fake_tuft, wait_for

HYPER = Hyperparameters(max_steps=12, batch_size=4, learning_rate=1e-2, lora_rank=4, eval_every=4, checkpoint_every=4)
LONG = replace(HYPER, max_steps=100_000, eval_every=0, checkpoint_every=5)


stack = pytest.fixture(stack_over_fake_tuft)


def test_what_a_pod_runs_before_it_stops_saves_and_hands_the_job_back(stack: TrainerStack) -> None:
    job_id = stack.submit(LONG)
    worker = stack.worker()
    stack.wait_step(job_id, 7)
    assert stack.start("leave", log="leave.log").wait(120) == 0
    assert worker.wait(0) == 0, "it had left when the hook ended"
    job = stack.job(job_id)
    assert job.state is JobState.QUEUED
    assert stack.store.ledger.checkpoint(job_id).step == job.step
    assert "PREEMPTED" in stack.events(job_id)


def test_a_forbidden_ticket_is_refused_and_the_worker_goes_on(stack: TrainerStack) -> None:
    rq_id = stack.store.tickets.call(f"train.{HOST}", "os.system", {"command": "true"}, timeout=60)
    worker = stack.worker()
    with pytest.raises(Exception, match=r"os\.system is not a function of the trainer"):
        stack.store.tickets.result(rq_id, 120)
    job_id = stack.submit(HYPER)
    stack.wait(job_id, JobState.SUCCEEDED)
    assert worker.poll() is None


def test_the_workers_own_process_stays_clean(stack: TrainerStack) -> None:
    job_id = stack.submit(LONG)
    worker = stack.worker()
    stack.wait_step(job_id, 2)
    assert len(os.listdir(f"/proc/{worker.pid}/task")) == 1
    maps = Path(f"/proc/{worker.pid}/maps").read_text()
    assert not [name for name in ("_pydantic_core", "pyarrow", "grpc", "torch", "libnvidia-ml") if name in maps]
    script = (
        "import sys, services.trainer.worker; "
        "print([m for m in ('tinker', 'pyarrow', 'grpc', 'transformers', 'pynvml', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_horse_ends_with_its_worker(stack: TrainerStack) -> None:
    job_id = stack.submit(LONG)
    worker = stack.worker()
    stack.wait_step(job_id, 2)
    horse = stack.horse(worker)
    kill(worker.pid)
    wait_for(lambda: not Path(f"/proc/{horse}").exists() or is_zombie(horse), "the end of the horse")


def test_a_worker_counts_while_it_waits_and_works_and_no_more_once_it_is_killed(stack: TrainerStack) -> None:
    store, queue = stack.store, f"train.{HOST}"
    worker = stack.worker()
    wait_for(lambda: [host.backend_up for host in store.hosts.live()] == [True], "the host's record")
    wait_for(lambda: count(store.redis, [queue]) == [1], "the worker")
    (key,) = store.redis.smembers(registered(queue))
    age(store, key)
    wait_for(lambda: count(store.redis, [queue]) == [1], "a sign of the idle worker")
    assert store.pool.load().has_room()
    stack.wait_step(stack.submit(LONG), 2)
    horse = stack.horse(worker)
    for _ in range(2):
        age(store, key)
        wait_for(lambda: count(store.redis, [queue]) == [1], "a sign of the busy worker")
    assert stack.horse(worker) == horse
    assert not store.pool.load().has_room(), "it has a job"
    kill(worker.pid)
    worker.wait(60)
    assert count(store.redis, [queue]) == [1], "its last sign is fresh"
    age(store, key)
    assert count(store.redis, [queue]) == [0]
    assert [host.workers for host in store.hosts.list()] == [0]
    assert store.redis.smembers(registered(queue)) == {key}, "RQ still lists it"


def is_zombie(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # reaped since
        return True


def test_without_a_gpu_the_worker_says_so_in_one_sentence(stack: TrainerStack) -> None:
    process = stack.start("worker", log="refused.log")
    assert process.wait(120) == 2
    assert stack.log("refused.log").strip() == (
        "no NVIDIA GPU was found on this host; start the worker with --allow-cpu to work without one"
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("TURNLOOM_HOST", "", "TURNLOOM_HOST: is not set; give letters, digits, dot, - and _, a name that stays"),
        (
            "TURNLOOM_TUFT_API_KEY",
            "sk-1",
            "TURNLOOM_TUFT_API_KEY: its value can't be used; give a key that starts with tml-",
        ),
        ("TURNLOOM_TUFT_CHECKPOINT_DIR", "", "TURNLOOM_TUFT_CHECKPOINT_DIR: is not set; give the TuFT server's"),
        ("TURNLOOM_LEASE_TTL", "-1", "TURNLOOM_LEASE_TTL: '-1' can't be used; give seconds above 0"),
        ("TURNLOOM_TUFT_URL", "10610", "TURNLOOM_TUFT_URL: '10610' can't be used; give http://HOST:PORT"),
        ("TURNLOOM_LOG_LEVEL", "loud", "TURNLOOM_LOG_LEVEL: 'loud' can't be used; give debug, info, warning or error"),
    ],
)
def test_a_wrong_setting_is_named(stack: TrainerStack, name: str, value: str, sentence: str) -> None:
    stack.environment[name] = value
    process = stack.start("worker", "--allow-cpu", log="refused.log")
    assert process.wait(120) == 2
    assert sentence in stack.log("refused.log")


def test_a_second_machine_under_the_name_of_a_host_is_refused_at_start(stack: TrainerStack, tmp_path: Path) -> None:
    stack.worker()
    wait_for(lambda: [host.name for host in stack.store.hosts.live()] == [HOST], "the first machine's record")
    other = tmp_path / "other-disk"
    other.mkdir()
    stack.environment["TURNLOOM_TUFT_CHECKPOINT_DIR"] = str(other)
    assert stack.start("worker", "--allow-cpu", log="second.log").wait(120) == 2
    assert f" works under the name '{HOST}' with another checkpoint folder" in stack.log("second.log")
    assert "give each machine a name of its own" in stack.log("second.log")
    checks = list(_identities(stack.store, stack.store.hosts.list()))
    assert [(check.name, check.outcome, check.host) for check in checks] == [("host_identity", "failed", HOST)]
    assert stack.store.redis.get(f"tl:run:alive:{HOST}") == "1", "the first one goes on"


def test_the_probe_reports_the_host_and_what_its_server_serves(stack: TrainerStack) -> None:
    assert stack.start("probe-host", "--allow-cpu", log="probe.log").wait(120) == 0
    record = stack.store.hosts.get(HOST)
    assert record is not None
    assert record.backend_up
    assert [(model.name, model.max_model_len) for model in record.models] == [(stack.tuft.model_name, 1024)]
    stack.tuft.kill()
    assert stack.start("probe-host", "--allow-cpu", log="probe.log").wait(120) == 0
    record = stack.store.hosts.get(HOST)
    assert record is not None
    assert not record.backend_up
    assert [model.name for model in record.models] == [stack.tuft.model_name]


def test_diagnosis_comes_back_over_the_queue(stack: TrainerStack) -> None:
    stack.worker()
    rq_id = stack.store.tickets.call(f"train.{HOST}", "services.trainer.host.diagnose.run", {"host": HOST}, timeout=120)
    answer = stack.store.tickets.result(rq_id, 120)
    assert isinstance(answer, dict)
    outcomes = {check["name"]: check["outcome"] for check in answer["checks"]}
    assert outcomes == {
        "gpu": "warning",
        "sdk_version": "ok",
        "api_key": "ok",
        "proxy": outcomes["proxy"],
        "tuft_reachable": "ok",
        "tuft_ready": "ok",
        "acceleration": "skipped",  # a stock TuFT, and no GPU
        "checkpoint_dir": "ok",
        "store": "skipped",  # nobody put a file there to look for
        "clock": "ok",
        "adapters": "ok",
    }
    assert all(check["hint"] or check["outcome"] in ("ok", "skipped", "warning") for check in answer["checks"])


def test_an_adapter_without_a_job_is_found(stack: TrainerStack) -> None:
    job_id = stack.submit(LONG)
    worker = stack.worker()
    stack.wait_step(job_id, 6)
    kill(worker.pid)
    wait_for(lambda: stack.store.jobs.expire(job_id), "the end of the lease")
    stack.store.jobs.cancel(job_id)
    stack.worker()
    rq_id = stack.store.tickets.call(f"train.{HOST}", "services.trainer.host.diagnose.run", {"host": HOST}, timeout=120)
    answer = stack.store.tickets.result(rq_id, 120)
    assert isinstance(answer, dict)
    adapters = next(check for check in answer["checks"] if check["name"] == "adapters")
    assert adapters["outcome"] == "warning"
    assert "1 run that no unfinished job" in adapters["message"]
