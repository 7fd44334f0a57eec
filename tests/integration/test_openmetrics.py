"""`turnloom export --to openmetrics` of a resumed run, imported by promtool and read back from a real Prometheus."""

from __future__ import annotations

import subprocess
import time
from itertools import accumulate, pairwise
from pathlib import Path

import pytest

from services.store.records import CheckpointRecord, HostRecord, StepRecord
from services.store.store import Store
from tests.support.api_calls import Api, make_dataset, make_job
from tests.support.cli_runs import turnloom
from tests.support.prometheus_server import Prometheus, program


def train(store: Store, job: str, attempt: int, first: int, last: int, begun: float) -> None:
    """Steps a second apart, 100 s and more after `begun`, with sums that no float holds exactly."""
    for number in range(first, last + 1):
        test = {"test_nll_sum": 7.7 / (number + 1), "test_weight_sum": 3.3} if number % 3 == 0 else {}
        record = StepRecord(
            step=number, attempt=attempt, epoch=1, rows=3, tokens=97 * number, loss_tokens=40 * number,
            nll_sum=100.1 / (number + attempt) if number else 0.0, weight_sum=number / 3,
            learning_rate=1e-4 / (number + 1), time=begun + 100 * attempt + number, **test,
        )  # fmt: skip
        store.ledger.commit_step(job, record)
        if number % 2 == 0:
            name = f"{job}-a{attempt}-s{number}"
            store.ledger.commit_checkpoint(job, CheckpointRecord(name, f"tinker://{name}", number, attempt))


@pytest.fixture
def resumed(api: Api, store: Store, gpu_host: HostRecord) -> str:
    """Id of a job whose first attempt was lost after step 5, with its last checkpoint at step 4."""
    job, begun = make_job(api, make_dataset(api, 40).id).job.id, time.time() - 600
    assert store.jobs.claim(job, 1, "w:1") is not None
    train(store, job, 1, 0, 5, begun)
    store.redis.delete(f"tl:run:lease:{job}")
    assert store.jobs.expire(job)
    assert store.jobs.claim(job, 2, "w:2") is not None
    train(store, job, 2, 5, 10, begun)
    return job


def test_the_exported_series_equals_list_steps_after_its_way_through_promtool(
    api: Api, resumed: str, tmp_path: Path
) -> None:
    promtool = program("promtool")
    text, data = tmp_path / "run.txt", tmp_path / "data"
    ran = turnloom(api.address, "export", resumed, "--to", "openmetrics", "--out", text, "--json")
    assert ran.document == {"format": "openmetrics", "files": [str(text)]}
    assert text.read_text().endswith("\n# EOF\n")
    subprocess.run([promtool, "tsdb", "create-blocks-from", "openmetrics", text, data], check=True, capture_output=True)

    steps = turnloom(api.address, "steps", resumed, "--json").lines
    assert [one["step"] for one in steps] == list(range(11))
    trained, tested = steps[1:], [one for one in steps if one["test_nll_sum"] is not None]
    expected = {
        "turnloom_run_step": [one["step"] for one in steps],
        "turnloom_run_last_train_nll_nats": [one["nll_sum"] / one["weight_sum"] for one in trained],
        "turnloom_run_learning_rate": [one["learning_rate"] for one in trained],
        "turnloom_run_test_nll_nats": [one["test_nll_sum"] / one["test_weight_sum"] for one in tested],
        'turnloom_run_nll_nats_total{split="train"}': list(accumulate(one["nll_sum"] for one in steps)),
        'turnloom_run_loss_weight_total{split="train"}': list(accumulate(one["weight_sum"] for one in steps)),
        'turnloom_run_nll_nats_total{split="test"}': list(accumulate(one["test_nll_sum"] for one in tested)),
        "turnloom_run_tokens_total": list(accumulate(one["tokens"] for one in steps)),
    }
    with Prometheus(tmp_path, {}, 1.0) as prometheus:
        for series, values in expected.items():
            (found,) = prometheus.query(f"{series}[1h]")
            assert [float(value) for _, value in found["values"]] == values, series
        (found,) = prometheus.query("turnloom_run_step[1h]")
        ends = [at for at, _ in found["values"]]
        assert [round(late - early) for early, late in pairwise(ends)] == [1] * 4 + [101] + [1] * 5


def test_a_file_that_cannot_be_written_is_named(api: Api, resumed: str, tmp_path: Path) -> None:
    ran = turnloom(api.address, "export", resumed, "--to", "openmetrics", "--out", tmp_path)
    assert (ran.code, f"{tmp_path} can't be used: Is a directory." in ran.err) == (2, True)
    assert turnloom(api.address, "export", "job-unknown", "--to", "openmetrics").code == 4
