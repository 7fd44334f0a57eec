"""A whole trainer around a fake TuFT: Redis, object store, workers and supervisor as processes; jobs made directly.

What the API would do (create, queue, ticket) is done here on the store, so that these tests need no gRPC.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from services.store.ids import new_id
from services.store.records import (
    DatasetRecord,
    DatasetState,
    Hyperparameters,
    JobRecord,
    JobSpec,
    JobState,
    MixPart,
    StartFrom,
)
from services.store.retries import retry_redis
from services.store.shards.dataset_files import DatasetReader, DatasetWriter
from services.store.shards.dataset_files import Row as StoredRow
from services.store.store import Store, open_store
from services.trainer.batches.rows import Row
from services.trainer.host import preemption
from tests.fakes.fake_tuft import FakeTuft
from tests.support.redis_fixtures import RedisServer
from tests.support.trainer_parts import conversations
from turnloom.embedded.tuft_server import TuftServer

REPOSITORY = Path(__file__).resolve().parents[2]
HOST = "host-1"
LOOK = 0.02  #: seconds between two looks at a condition
ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


def stored(rows: Iterable[Row]) -> Iterable[StoredRow]:
    """Rows as a dataset file takes them: weights as runs."""
    last, part = -1, 0
    for one in rows:
        part = part + 1 if one.conversation == last else 0
        last = one.conversation
        edges = np.flatnonzero(np.diff(one.target_weights)) + 1
        bounds = np.concatenate([[0], edges, [len(one.target_weights)]])
        yield StoredRow(
            conversation=one.conversation,
            part=part,
            token_ids=one.token_ids,
            run_lengths=np.diff(bounds).astype(np.uint32),
            run_values=one.target_weights[bounds[:-1]],
            target_bytes=one.target_bytes,
        )


def wait_for(condition: Callable[[], bool], what: str, deadline: float = 120.0) -> None:
    """Waits until it is so; fails with `what` after the deadline."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"still not so after {deadline:g} s: {what}"
        time.sleep(LOOK)


@dataclass
class TrainerStack:
    """Everything that one test needs; `close` ends all processes that it started."""

    folder: Path
    redis: RedisServer
    tuft: FakeTuft | TuftServer
    lease_ttl: float = 1.0
    environment: dict[str, str] = field(default_factory=dict)
    bucket: str = ""  #: URL of an object store; empty: a folder
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _store: Store | None = None

    @property
    def store_url(self) -> str:
        return self.bucket or str(self.folder / "store")

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = open_store(self.redis.url, self.store_url, self.lease_ttl)
        return self._store

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            process.wait(60)
        if self._store is not None:
            self._store.close()

    # Processes.

    def settings(self) -> dict[str, str]:
        """The environment of all trainer processes."""
        return {
            "TURNLOOM_HOST": HOST,
            "TURNLOOM_REDIS_URL": self.redis.url,
            "TURNLOOM_STORE_URL": self.store_url,
            "TURNLOOM_TUFT_URL": self.tuft.url,
            "TURNLOOM_TUFT_API_KEY": self.tuft.api_key,
            "TURNLOOM_TUFT_CHECKPOINT_DIR": str(self.tuft.checkpoint_dir),
            "TURNLOOM_LEASE_TTL": str(self.lease_ttl),
            "TURNLOOM_CALL_DEADLINE": "30",
            "TURNLOOM_START_DEADLINE": "30",
            "TURNLOOM_REDIS_PATIENCE": "30",
            "OMP_NUM_THREADS": "1",
        } | self.environment

    def start(self, *arguments: str, log: str) -> subprocess.Popen[bytes]:
        """Starts `python -m services.trainer ARGUMENTS`; its output goes to folder/log."""
        with (self.folder / log).open("ab") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.trainer", *arguments],
                cwd=REPOSITORY,
                env=os.environ | self.settings(),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        return self.start("worker", "--allow-cpu", log="worker.log")

    def supervisor(self) -> subprocess.Popen[bytes]:
        return self.start("supervisor", log="supervisor.log")

    def log(self, name: str = "worker.log") -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def horse(self, worker: subprocess.Popen[bytes]) -> int:
        """Pid of the worker's horse (the probe is a child of it too, but has another command line)."""
        found: list[int] = []

        def there() -> bool:
            found[:] = horses(worker.pid)
            return bool(found)

        wait_for(there, "a horse")
        return found[0]

    # Data and jobs.

    def dataset(self, rows: Sequence[Row]) -> str:
        """A READY dataset of these rows; its id."""
        options = json.dumps({"model": "test"})
        with DatasetWriter(self.store_url, options) as writer:
            for one in stored(rows):
                writer.append(one)
            written = writer.commit()
        record = DatasetRecord(
            id=new_id("ds"),
            options_json=options,
            state=DatasetState.READY,
            sha256=written.sha256,
            uri=written.uri,
            conversations=written.conversations,
        )
        return self.store.datasets.create(record).dataset.id

    def submit(
        self,
        hyperparameters: Hyperparameters,
        *,
        train: Sequence[Row] | None = None,
        test: Sequence[Row] | None = None,
        start_from: StartFrom | None = None,
        model: str = "",
        mix: Sequence[tuple[Sequence[Row], float]] = (),
        training_dataset: str = "",
    ) -> str:
        """Creates and queues a job as the API does, on one dataset or a `mix` of rows with weights; its id."""
        parts = tuple(MixPart(self.dataset(rows), weight) for rows, weight in mix)
        spec = JobSpec(
            model="test",
            tuft_model=model or self.tuft.model_name,
            training_dataset=training_dataset
            or ("" if mix else self.dataset(conversations(12) if train is None else train)),
            mix=parts,
            test_dataset=self.dataset(conversations(5, seed=1) if test is None else test) if test != () else "",
            hyperparameters=hyperparameters,
            start_from=start_from,
        )
        job = self.store.jobs.create(spec).job
        job = self.store.jobs.queue(job.id, host=HOST, planned_steps=hyperparameters.max_steps or 0)
        self.store.tickets.enqueue(job)
        return job.id

    def job(self, job_id: str) -> JobRecord:
        return retry_redis(lambda: self.store.jobs.get(job_id), 30.0)

    def wait(self, job_id: str, *states: JobState, deadline: float = 120.0) -> JobRecord:
        """Waits for one of these states (none given: the end); fails early when it ended otherwise."""
        wanted = frozenset(states) or ENDED
        end = time.monotonic() + deadline
        while True:
            job = self.job(job_id)
            if job.state in wanted:
                return job
            assert job.state not in ENDED, f"{job.state}: {job.error}\n{self.log()[-4000:]}"
            assert time.monotonic() < end, f"{job.state} at step {job.step}\n{self.log()[-4000:]}"
            time.sleep(LOOK)

    def wait_step(self, job_id: str, step: int, deadline: float = 120.0) -> None:
        wait_for(lambda: self.job(job_id).step >= step, f"{job_id} at step {step}", deadline)

    def series(self, job_id: str) -> list[tuple[int, float]]:
        """Step and NLL sum of the effective series."""
        return [(record.step, record.nll_sum) for record in self.store.ledger.steps(job_id, 1, 100_000)]

    def events(self, job_id: str) -> list[str]:
        return [event.type for event in self.store.events.list(job_id, page_size=1000).items]

    def reader(self, uri: str) -> DatasetReader:
        return DatasetReader(uri)


def stack_over_fake_tuft(tmp_path: Path, redis_server: RedisServer, fake_tuft: FakeTuft) -> Iterator[TrainerStack]:
    """What a module makes its fixture `stack` of: nothing runs yet but Redis and the fake TuFT."""
    made = TrainerStack(tmp_path, redis_server, fake_tuft)
    yield made
    made.close()


def stack_over_real_tuft(tmp_path: Path, redis_server: RedisServer, real_tuft: TuftServer) -> Iterator[TrainerStack]:
    """The same over the real TuFT, which takes longer to answer."""
    made = TrainerStack(tmp_path, redis_server, real_tuft, lease_ttl=3.0)
    made.environment |= {"TURNLOOM_CALL_DEADLINE": "60", "TURNLOOM_START_DEADLINE": "120"}
    yield made
    made.close()


def horses(worker: int) -> list[int]:
    """Children of a worker that are its forks and hear its signal, as neither a probe nor a zombie does."""
    try:
        children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(pid) for pid in children if _hears(pid)]


def _hears(pid: str) -> bool:
    """Whether a process lives and has a handler for the wish that it leaves; a probe never has, not before its exec."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = int(status["SigCgt"], 16) >> (preemption.SIGNAL - 1) & 1
    return bool(caught) and not status["State"].strip().startswith(("Z", "X"))


def kill(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)
