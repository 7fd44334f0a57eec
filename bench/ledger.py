"""What the ledger costs: latency of a commit, memory per step, time to read and to resume. `python -m bench.ledger`.

Uses TURNLOOM_REDIS_URL where it is set (the job is deleted afterwards), else a Redis of its own on a free port.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

from bench.program import DEV, NO_REDIS, end, libraries, usage

PROGRAM: Final = usage("bench.ledger", __doc__)
PROGRAM.add_argument("--steps", type=int, default=100_000)

with libraries(DEV, __name__, PROGRAM):
    from services.store import keys
    from services.store.ids import new_id
    from services.store.ledger import Outcome
    from services.store.records import CheckpointRecord, DatasetRecord, DatasetState, JobSpec, JobState, StepRecord
    from services.store.store import Store, open_store
    from tests.support.redis_fixtures import RedisServer, redis_program


def step(number: int, attempt: int = 1) -> StepRecord:
    """A record as a real run makes it: no short numbers."""
    return StepRecord(
        step=number,
        attempt=attempt,
        epoch=1 + number // 1000,
        conversations=16,
        rows=19,
        tokens=8191 + number % 97,
        loss_tokens=2047 + number % 31,
        target_bytes=9001 + number % 53,
        nll_sum=2047 * 1.2345678 / (1 + number / 777),
        weight_sum=2047.0 + number % 31,
        objective=1.2345678 / (1 + number / 777),
        learning_rate=1e-4 / (1 + number / 3),
        phase_seconds={"data": 0.00123 + number * 1e-9, "forward_backward": 0.4567, "optim_step": 0.0345},
        gpu_utilization=63.5,
        gpu_memory_bytes=81_234_567_890,
        time=1_760_000_000.123 + number,
        test_nll_sum=98765.4321 / number if number % 50 == 0 else None,
        test_weight_sum=54321.0 if number % 50 == 0 else None,
        test_target_bytes=234567 if number % 50 == 0 else None,
    )


@contextmanager
def opened() -> Iterator[Store]:
    """A store on the Redis that was named, or on one of our own."""
    url = os.environ.get("TURNLOOM_REDIS_URL")
    with tempfile.TemporaryDirectory() as folder:
        server = None
        if not url:
            program = redis_program()
            if program is None:
                end(NO_REDIS)
            server = RedisServer(program, Path(folder))
            server.start()
            url = server.url
        store = open_store(url)
        try:
            yield store
        finally:
            store.close()
            if server is not None:
                server.stop()


def milliseconds(samples: list[float]) -> str:
    """Median, 95th and 99th percentile."""
    cuts = statistics.quantiles(samples, n=100)
    shown = (("median", statistics.median(samples)), ("p95", cuts[94]), ("p99", cuts[98]))
    return "   ".join(f"{name} {value * 1e3:7.3f} ms" for name, value in shown)


def measure(store: Store, steps: int) -> None:
    """One job of `steps` steps from its creation to its deletion."""
    dataset = DatasetRecord(new_id("ds"), "{}", DatasetState.READY, sha256=new_id("sha"))
    store.datasets.create(dataset)
    job = store.jobs.create(JobSpec("m", "m", dataset.id)).job
    store.jobs.queue(job.id, host="bench", planned_steps=steps)
    store.jobs.claim(job.id, 1, "bench")
    store.ledger.commit_checkpoint(job.id, CheckpointRecord("c0", "p", 0, 1))
    before = memory(store)
    samples = []
    for number in range(1, steps + 1):
        record = step(number)
        began = time.perf_counter()
        answer = store.ledger.commit_step(job.id, record)
        samples.append(time.perf_counter() - began)
        assert answer.outcome is Outcome.OK
        if number == steps // 2:
            store.ledger.commit_checkpoint(job.id, CheckpointRecord("half", "p", number, 1))
    edge = min(2000, steps // 2)
    print(f"commit, first {edge:6}   {milliseconds(samples[:edge])}")
    print(f"commit, last {edge:7}   {milliseconds(samples[-edge:])}")
    print(f"memory per step         {(memory(store) - before) / steps:7.0f} bytes (stream, series, evaluations)")
    began = time.perf_counter()
    assert len(store.ledger.steps(job.id, 1, steps)) == steps
    print(f"read all steps          {(time.perf_counter() - began) / steps * 1e6:7.1f} us a step")
    reads = [timed(lambda: store.jobs.get(job.id)) for _ in range(500)]
    print(f"read the job            {milliseconds(reads)}")
    store.jobs.release(job.id, 1, "bench", "The benchmark ends the attempt.")
    began = time.perf_counter()
    claim = store.jobs.claim(job.id, 2, "bench")
    print(f"claim that cuts {steps - steps // 2:7} steps: {(time.perf_counter() - began) * 1e3:.1f} ms")
    assert claim is not None
    assert claim.job.step == steps // 2
    store.jobs.finish(job.id, 2, JobState.SUCCEEDED)
    store.jobs.delete(job.id)
    store.datasets.delete(dataset.id)
    assert not store.redis.exists(keys.stream(job.id))


def timed(call: object) -> float:
    """Seconds of one call."""
    assert callable(call)
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def memory(store: Store) -> int:
    """Bytes that Redis has allocated."""
    return cast(int, store.redis.info("memory")["used_memory"])


def main() -> None:
    """Print the table."""
    steps = PROGRAM.parse_args().steps
    with opened() as store:
        version = store.redis.info("server")["redis_version"]
        print(f"Redis {version}, {steps} steps, one client on this machine, appendfsync everysec")
        measure(store, steps)


if __name__ == "__main__":
    main()
