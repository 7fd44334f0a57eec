"""Three GPU hosts in network namespaces, Redis and S3 on a fourth: one is cut off for good, and its job goes on.

Real processes and a real S3 API (moto). TuFT is the fake, so that series can be compared bit for bit, and in a pair of
hosts the real one on the CPU.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from services.store.errors import StoreError
from services.store.records import Hyperparameters, JobRecord, JobSpec, JobState, StartFrom
from services.store.store import Store, open_store
from tests.fakes.fake_tuft import FakeTuft
from tests.support.namespaces import Lab, Place, lab
from tests.support.redis_fixtures import redis_program
from tests.support.s3_server import KEY
from tests.support.trainer_parts import conversations
from tests.support.trainer_stack import REPOSITORY, TrainerStack, wait_for
from turnloom.embedded.tuft_server import TuftServer, TuftSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LOST = 10.0  #: TURNLOOM_HOST_LOST_SECONDS here
PROBE = 3.0  #: TURNLOOM_PROBE_SECONDS here
TUFT_PORT = 10610  #: of a real TuFT, in a namespace of its own
AFTER = 60.0  #: seconds after that limit in which the job has to go on
#: HOST:PORT PATH BODY
POST = (
    "import sys, http.client as h; c = h.HTTPConnection(sys.argv[1]); c.request('POST', *sys.argv[2:]); c.getresponse()"
)
STORE_URL = "s3://turnloom-test/store"
HYPER = Hyperparameters(
    max_steps=1500, batch_size=4, learning_rate=1e-3, lora_rank=4, eval_every=0, checkpoint_every=20
)


class Hosts:
    """Everything that runs in the lab."""

    def __init__(self, net: Lab, folder: Path, stack: ExitStack, real: tuple[Path, Path] | None = None) -> None:
        """`real`: interpreter and model of the real TuFT, instead of the fake one."""
        self.net, self.folder, self._stack, self._real = net, folder, stack, real
        self.model = "turnloom/tiny-qwen3" if real else "turnloom/fake"
        self.tufts: list[FakeTuft] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._hub()
        os.environ.update(KEY | {"AWS_ENDPOINT_URL": f"http://{net.outside.hub}:9000"})
        self.store: Store = open_store(f"redis://{net.outside.hub}:6379/0", STORE_URL, 3.0)
        self.names = [f"host-{number}" for number in range(len(net.places))]
        for name, place in zip(self.names, net.places, strict=True):
            self._host(name, place)

    def _run(self, inside: tuple[str, ...], log: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as sink:
            process = subprocess.Popen(
                [*inside, *command],
                cwd=REPOSITORY,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )
        self.processes.append(process)
        return process

    def _hub(self) -> None:
        inside, program = self.net.inside_hub, redis_program()
        assert program is not None
        files = self.folder / "redis"
        files.mkdir()
        listening = ("--bind", "0.0.0.0", "--protected-mode", "no", "--port", "6379", "--dir", str(files))
        self._run(inside, "redis.log", program, *listening, "--appendonly", "yes", "--save", "")
        self._run(inside, "moto.log", sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", "9000")
        wait_for(self._is_up, "Redis and S3 in the hub", 60.0)
        self._run(
            inside,
            "supervisor.log",
            *(sys.executable, "-m", "services.trainer", "supervisor"),
            **self._settings("127.0.0.1"),
            TURNLOOM_HOST_LOST_SECONDS=str(LOST),
        )

    def _is_up(self) -> bool:
        try:
            with redis.Redis(host=self.net.outside.hub, socket_timeout=2) as client:
                client.ping()
            bucket = http.client.HTTPConnection(self.net.outside.hub, 9000, timeout=2)
            bucket.request("PUT", "/turnloom-test")
            return bucket.getresponse().status in (200, 409)
        except (OSError, redis.RedisError):
            return False

    @staticmethod
    def _settings(hub: str) -> dict[str, str]:
        return KEY | {
            "AWS_ENDPOINT_URL": f"http://{hub}:9000",
            "TURNLOOM_REDIS_URL": f"redis://{hub}:6379/0",
            "TURNLOOM_STORE_URL": STORE_URL,
            "TURNLOOM_LEASE_TTL": "3",
            "OMP_NUM_THREADS": "1",
        }

    def _host(self, name: str, place: Place) -> None:
        tuft = self._tuft(name, place)
        self._run(
            place.inside,
            f"{name}.log",
            *(sys.executable, "-m", "services.trainer", "worker", "--allow-cpu"),
            **self._settings(place.hub),
            TURNLOOM_HOST=name,
            TURNLOOM_TUFT_URL=tuft.url,
            TURNLOOM_TUFT_API_KEY=tuft.api_key,
            TURNLOOM_TUFT_CHECKPOINT_DIR=str(tuft.checkpoint_dir),
            TURNLOOM_REDIS_PATIENCE="600",
            TURNLOOM_PROBE_SECONDS=str(PROBE),
            TURNLOOM_STORE_CACHE=str(self.folder / f"{name}-cache"),
        )

    def _tuft(self, name: str, place: Place) -> FakeTuft | TuftServer:
        if self._real is None:
            fake = FakeTuft(self.folder / name, inside=place.inside)
            self._stack.enter_context(fake)
            self.tufts.append(fake)
            return fake
        python, model = self._real
        real = TuftServer(TuftSettings(python=python, home=self.folder / name, model_path=model, port=TUFT_PORT))
        real.checkpoint_dir.mkdir(parents=True)
        launcher = self._run(place.inside, f"{name}-tuft.log", *real.command(), **real.environment())
        self._stack.callback(launcher.wait, 30)  # it ends what it started
        self._stack.callback(launcher.terminate)
        return real

    def place(self, name: str) -> Place:
        return self.net.places[self.names.index(name)]

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(30)
        self.store.close()

    def submit(self, hyper: Hyperparameters, start: StartFrom | None = None) -> str:
        """A job that waits for any host."""
        data = TrainerStack.dataset(self, conversations(12))  # type: ignore[arg-type]  # it asks for store and URL
        spec = JobSpec("test", self.model, data, hyperparameters=hyper, start_from=start)
        job = self.store.jobs.create(spec).job
        return self.store.jobs.queue(job.id, host="", planned_steps=hyper.max_steps or 0).id

    @property
    def store_url(self) -> str:
        return STORE_URL

    def job(self, job_id: str) -> JobRecord:
        return self.store.jobs.get(job_id)

    def slow_down(self, milliseconds: float) -> None:
        """Every optimizer step takes so much longer; ordered from inside, for a namespace has its own loopback."""
        order = {"kind": "optim_step", "fault": "slow", "at": 1, "times": None, "ms": milliseconds}
        for place, tuft in zip(self.net.places, self.tufts, strict=True):
            command = [*place.inside, sys.executable, "-c", POST, f"127.0.0.1:{tuft.url.rpartition(':')[2]}"]
            subprocess.run([*command, "/_faults", json.dumps(order)], check=True, timeout=60)

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.log")))

    def wait(self, job_id: str, state: JobState, seconds: float = 400.0) -> JobRecord:
        try:
            wait_for(lambda: self.job(job_id).state is state, f"{job_id} {state}", seconds)
        except AssertionError:
            raise AssertionError(f"{self.job(job_id)}\n{self.logs()}") from None
        return self.job(job_id)

    def series(self, job_id: str) -> list[tuple[int, float]]:
        return [(one.step, one.nll_sum) for one in self.store.ledger.steps(job_id, 1, 100_000)]


@contextmanager
def laboratory(count: int, folder: Path, real: tuple[Path, Path] | None = None) -> Iterator[Hosts]:
    """So many hosts, up and ready."""
    with pytest.MonkeyPatch.context() as patch, lab(count) as net, ExitStack() as stack:
        for name in (*KEY, "AWS_ENDPOINT_URL"):
            patch.setenv(name, "")  # put back afterwards
        if net is None:
            pytest.skip("network namespaces can't be made here: that needs root and iproute2")
        there = Hosts(net, folder, stack, real)
        stack.callback(there.close)
        wait_for(lambda: _live(there) == count, f"{count} hosts", 300.0)
        yield there


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with laboratory(3, tmp_path) as there:
        yield there


def test_a_host_that_is_cut_off_for_good_loses_its_job_and_no_step(hosts: Hosts) -> None:
    reference = hosts.submit(replace(HYPER, max_steps=2))
    hosts.wait(reference, JobState.SUCCEEDED)
    start = StartFrom(reference, hosts.store.ledger.checkpoints(reference)[0].id)
    whole = hosts.submit(HYPER, start)
    hosts.wait(whole, JobState.SUCCEEDED)

    job_id = hosts.submit(HYPER, start)
    wait_for(lambda: hosts.job(job_id).stored_step >= 40, "a stored checkpoint", 200.0)
    first = hosts.job(job_id)
    hosts.net.cut(hosts.place(first.host))
    cut_at = time.monotonic()
    wait_for(lambda: hosts.job(job_id).attempt == 2, "the second attempt", LOST + AFTER)
    assert time.monotonic() - cut_at <= LOST + AFTER
    second = hosts.job(job_id)
    assert second.host != first.host
    assert second.start_step >= first.stored_step

    fenced = int(hosts.store.redis.hget("tl:run:counters", "fenced") or 0)
    hosts.net.mend(hosts.place(first.host))  # the old horse still trains, and wants to commit
    wait_for(lambda: int(hosts.store.redis.hget("tl:run:counters", "fenced") or 0) > fenced, "a refused commit", 120.0)
    ended = hosts.wait(job_id, JobState.SUCCEEDED)
    assert ended.host == second.host
    assert ended.attempt == 2
    assert hosts.series(job_id) == hosts.series(whole), "bit for bit the undisturbed series"
    assert sorted(one.step for one in hosts.store.ledger.all_steps(job_id) if one.attempt == 2) == list(
        range(second.start_step + 1, HYPER.max_steps + 1)  # type: ignore[operator]
    )
    again = hosts.submit(replace(HYPER, max_steps=2))  # the host that came back is a host like any other
    hosts.wait(again, JobState.SUCCEEDED)


def test_a_host_with_the_real_tuft_is_cut_off_and_its_twin_goes_on(
    tmp_path: Path, tuft_python: Path, tiny_model_dir: Path
) -> None:
    hyper = replace(HYPER, max_steps=80, checkpoint_every=5)
    with laboratory(2, tmp_path, (tuft_python, tiny_model_dir)) as hosts:
        seed = hosts.submit(replace(hyper, max_steps=1))
        hosts.wait(seed, JobState.SUCCEEDED)
        start = StartFrom(seed, hosts.store.ledger.checkpoints(seed)[0].id)
        whole = hosts.submit(hyper, start)
        hosts.wait(whole, JobState.SUCCEEDED)

        job_id = hosts.submit(hyper, start)
        wait_for(lambda: hosts.job(job_id).stored_step >= 5, "a stored checkpoint", 200.0)
        first = hosts.job(job_id)
        hosts.net.cut(hosts.place(first.host))
        wait_for(lambda: hosts.job(job_id).attempt == 2, "the second attempt", LOST + AFTER)
        ended = hosts.wait(job_id, JobState.SUCCEEDED)
        assert ended.host != first.host
        assert ended.attempt == 2
        assert ended.start_step >= first.stored_step
        steps, expected = zip(*hosts.series(whole), strict=True)
        assert [step for step, _ in hosts.series(job_id)] == list(steps)
        assert [nll for _, nll in hosts.series(job_id)] == pytest.approx(expected, rel=1e-6)


def test_ten_cuts_over_six_jobs_lose_none(hosts: Hosts) -> None:
    """A host that trains is cut off for longer than it takes to be lost: ten times, in turn."""
    steps = 500
    hosts.slow_down(milliseconds=100.0)  # the six jobs outlast ten cuts, on a fast machine too
    jobs = [hosts.submit(replace(HYPER, max_steps=steps)) for _ in range(6)]
    for number in range(10):
        victim = hosts.names[number % 3]
        wait_for(lambda victim=victim: JobState.RUNNING in _states_at(hosts, jobs, victim), f"a job at {victim}", 120.0)
        hosts.net.cut(hosts.place(victim))
        wait_for(lambda victim=victim: not _states_at(hosts, jobs, victim), f"{victim} is lost", LOST + AFTER)
        hosts.net.mend(hosts.place(victim))
    for job in jobs:
        hosts.wait(job, JobState.SUCCEEDED, 300.0)
        assert [step for step, _ in hosts.series(job)] == list(range(1, steps + 1))
        events = [one.type for one in hosts.store.events.list(job, page_size=1000).items]
        assert events.count("JOB_SUCCEEDED") == 1
    assert sum(hosts.job(job).attempt - 1 for job in jobs) >= 10, "every cut took a job along"


def _states_at(hosts: Hosts, jobs: Sequence[str], name: str) -> set[JobState]:
    """States of the jobs that a host has and that have not ended."""
    found = {job.state for job in map(hosts.job, jobs) if job.host == name}
    return found - {JobState.SUCCEEDED}


def _live(hosts: Hosts) -> int:
    try:
        return len([one for one in hosts.store.hosts.list() if one.workers and one.backend_up])
    except StoreError:
        return 0
