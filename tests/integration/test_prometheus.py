"""A real Prometheus scrapes the real exporter over a real Redis: sums equal the ledger, every panel finds data."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rq import Queue, Worker
from rq.serializers import JSONSerializer

from services.preprocess.api.exporter import serve_metrics
from services.preprocess.api.metrics import make_metrics
from services.store.connection import connect_rq
from services.store.ledger import Outcome
from services.store.queueing.queues import queue_name
from services.store.records import (
    CheckpointRecord,
    ErrorRecord,
    HostRecord,
    Hyperparameters,
    JobSpec,
    JobState,
    MixPart,
    MixSums,
    ServedModelRecord,
    StepRecord,
)
from services.store.store import Store, open_store
from tests.support.prometheus_server import Prometheus, eventually, free_port, program, read

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "deploy/grafana"))

import check_dashboards  # noqa: E402  (a script beside its dashboards, not a package)

SPEC = JobSpec(
    "tiny", "turnloom/tiny", "ds-train", "ds-test", Hyperparameters(lora_rank=8, learning_rate=5e-3), {}, "anna"
)


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = open_store(redis_url)
    for name in ("ds-train", "ds-more", "ds-test"):
        store.redis.hset(f"tl:api:dataset:{name}", "state", "ready")
    yield store
    store.close()


@pytest.fixture
def exporter(redis_url: str) -> Iterator[int]:
    """Port of the exporter as a process of its own."""
    port = free_port()
    environment = {
        **os.environ,
        "TURNLOOM_REDIS_URL": redis_url,
        "TURNLOOM_EXPORTER_HOST": "127.0.0.1",
        "TURNLOOM_EXPORTER_PORT": str(port),
    }
    process = subprocess.Popen([sys.executable, "-m", "services.trainer", "exporter"], env=environment, cwd=ROOT)
    try:
        # A test may be skipped at once: until it answers, the exporter does not handle the signal that ends it.
        eventually("the exporter answers", lambda: _answers(port) or process.poll() is not None)
        yield port
    finally:
        process.terminate()
        status = process.wait(120)
    assert status == 0


def _answers(port: int) -> bool:
    try:
        read(f"http://127.0.0.1:{port}/metrics")
    except OSError:
        return False
    return True


def step(number: int, attempt: int) -> StepRecord:
    """Numbers that no sum of floats holds exactly, and weights that make means of means wrong."""
    evaluated = number % 4 == 0
    return StepRecord(
        step=number, attempt=attempt, epoch=1, conversations=2, rows=3, tokens=90 + number, loss_tokens=40 + number,
        target_bytes=160, nll_sum=100.1 / (number + attempt), weight_sum=number / 3, objective=1.0,
        learning_rate=5e-3, phase_seconds={"data": 0.001, "forward_backward": 0.3, "optim_step": 0.05}, time=1.5,
        test_nll_sum=7.7 / (number + 1) if evaluated else None, test_weight_sum=3.3 if evaluated else None,
        test_target_bytes=25 if evaluated else None,
    )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A job and the hand that trains it."""

    store: Store
    job_id: str
    mix: tuple[MixSums, ...] = ()  #: of every step, where the job trains on a mixture

    def train(self, first: int, last: int, attempt: int) -> None:
        for number in range(first, last + 1):
            record = replace(step(number, attempt), mix=self.mix)
            assert self.store.ledger.commit_step(self.job_id, record).outcome is Outcome.OK

    def save(self, number: int, attempt: int) -> None:
        name = f"{self.job_id}-a{attempt}-s{number}"
        record = CheckpointRecord(name, f"tinker://{name}", number, attempt, probe_nll=1 / 3)
        assert self.store.ledger.commit_checkpoint(self.job_id, record).outcome is Outcome.OK

    def claim(self, attempt: int) -> None:
        assert self.store.jobs.claim(self.job_id, attempt, f"h1:{attempt}", "h1", price=2.5, currency="EUR") is not None


def queued_run(store: Store, *, mixed: bool = False) -> Run:
    parts = (MixPart(SPEC.training_dataset, 0.7), MixPart("ds-more", 0.3))
    job = store.jobs.create(replace(SPEC, training_dataset="", mix=parts) if mixed else SPEC).job
    store.tickets.enqueue(store.jobs.queue(job.id, host="h1", planned_steps=12))
    sums = (MixSums(2, 30, 1 / 3, 2.0), MixSums(1, 5, 0.1, 1.0))
    return Run(store, job.id, sums if mixed else ())


def work_done(store: Store, job_id: str) -> dict[str, float]:
    """Added up here, one record after the other, superseded ones included."""
    records = [record for record in store.ledger.all_steps(job_id) if record.step > 0]
    tests = [record for record in store.ledger.all_steps(job_id) if record.test_nll_sum is not None]
    return {
        'turnloom_run_nll_nats_total{split="train"}': sum(record.nll_sum for record in records),
        'turnloom_run_loss_weight_total{split="train"}': sum(record.weight_sum for record in records),
        'turnloom_run_nll_nats_total{split="test"}': sum(record.test_nll_sum or 0 for record in tests),
        'turnloom_run_loss_weight_total{split="test"}': sum(record.test_weight_sum or 0 for record in tests),
        'turnloom_run_target_bytes_total{split="train"}': sum(record.target_bytes for record in records),
        "turnloom_run_tokens_total": sum(record.tokens for record in records),
        "turnloom_run_loss_tokens_total": sum(record.loss_tokens for record in records),
        "turnloom_run_examples_total": sum(record.rows for record in records),
        "turnloom_run_steps_total": len(records),
    }


@pytest.mark.parametrize("interval", [1.0, pytest.param(15.0, marks=pytest.mark.slow)])
def test_sums_in_prometheus_equal_the_ledgers_work_done_with_a_worker_lost_in_the_middle(
    store: Store, exporter: int, tmp_path: Path, interval: float
) -> None:
    run = queued_run(store)
    train = 'turnloom_run_nll_nats_total{split="train"}'
    with Prometheus(tmp_path, {"turnloom-exporter": exporter}, interval) as prometheus:
        eventually("zeros of a new job are scraped", lambda: prometheus.value(train) == 0.0)
        run.claim(1)
        run.save(0, 1)
        run.train(1, 4, 1)
        run.save(4, 1)
        run.train(5, 7, 1)
        lost = work_done(store, run.job_id)[train]
        eventually(
            "the first attempt's steps are scraped", lambda: prometheus.value(train) == pytest.approx(lost, rel=1e-9)
        )

        store.redis.delete(f"tl:run:lease:{run.job_id}")
        assert store.jobs.expire(run.job_id)
        run.claim(2)
        assert [record.step for record in store.ledger.steps(run.job_id)] == [1, 2, 3, 4]
        run.train(5, 12, 2)
        run.save(12, 2)
        store.jobs.finish(run.job_id, 2, JobState.SUCCEEDED)

        expected = work_done(store, run.job_id)
        assert expected["turnloom_run_steps_total"] == 12 + 3  # three steps were trained twice
        mean = f"sum({train}) / sum(turnloom_run_loss_weight_total{{split='train'}})"
        exact = expected[train] / expected['turnloom_run_loss_weight_total{split="train"}']
        states = {"turnloom_run_step": 12, 'turnloom_run_state{state="succeeded"}': 1}
        last = {"turnloom_run_last_train_nll_nats": step(12, 2).nll_sum / 4.0}
        for series, total in {**expected, mean: exact, **states, **last}.items():
            # A scrape that came too late ends every series until the next.
            eventually(
                f"{series} is {total}",
                lambda series=series, total=total: prometheus.value(series) == pytest.approx(total, rel=1e-9),  # type: ignore[misc]
            )
        assert prometheus.value(f"resets({train}[10m])") == 0, "a counter of work done never falls"
        eventually(
            "the second attempt alone is told of",
            lambda: [series["metric"]["attempt"] for series in prometheus.query("turnloom_run_info")] == ["2"],
        )


def test_every_query_of_every_dashboard_finds_series_and_every_rule_is_well(
    store: Store, exporter: int, redis_url: str, tmp_path: Path
) -> None:
    run = queued_run(store, mixed=True)
    run.claim(1)
    run.save(0, 1)
    waiting = queued_run(store)
    models = (ServedModelRecord(SPEC.tuft_model, accelerated=True),)
    store.hosts.put(HostRecord("h1", backend_up=True, models=models, hour_price=2.5, currency="EUR"), ttl=600)
    api = make_metrics()
    server, api_port = serve_metrics(api.registry, "127.0.0.1", 0)
    connection = connect_rq(redis_url)
    queue = Queue(queue_name("h1"), connection=connection, serializer=JSONSerializer)
    worker = Worker([queue], name="h1.1.test", connection=connection, serializer=JSONSerializer)
    worker.register_birth()

    def call_the_api() -> None:
        labels = ("UNARY", "turnloom.v1.PreprocessService", "Preprocess")
        api.rpc.started.labels(*labels).inc(2)
        api.rpc.handled.labels(*labels, "OK").inc()
        api.rpc.seconds.labels(*labels).observe(0.02)
        api.preprocess.examples.labels("tiny", "made").inc(10)
        api.preprocess.tokens.labels("tiny").inc(1000)
        api.preprocess.loss_tokens.labels("tiny").inc(300)
        api.preprocess.truncated.labels("tiny").inc()
        api.preprocess.issues.labels("EMPTY_CONVERSATION").inc()
        api.preprocess.stage_seconds.labels("tokenize").observe(0.004)

    def stand_in_for_trouble() -> None:
        store.jobs.count("retries", "OUT_OF_MEMORY")
        store.jobs.count("resumes", "LEASE_EXPIRED")
        store.jobs.count("checkpoints", "saved")

    targets = {"turnloom-exporter": exporter, "turnloom-preprocess": api_port}
    boards = {path.name: json.loads(path.read_text()) for path in check_dashboards.FOLDER.glob("*.json")}
    try:
        with Prometheus(tmp_path, targets, 1.0) as prometheus:

            def scraped() -> float:
                seen = prometheus.value("count_over_time(up{job='turnloom-exporter'}[10m])")
                return 0.0 if math.isnan(seen) else seen

            for first in (1, 4, 7, 10):
                before = scraped()
                call_the_api()
                stand_in_for_trouble()
                run.train(first, first + 2, 1)
                run.save(first + 2, 1)
                eventually("two more scrapes", lambda before=before: scraped() >= before + 2)  # type: ignore[misc]

            def problems() -> list[str]:
                return [
                    f"{name}: {text}"
                    for name, board in boards.items()
                    for expression in check_dashboards.expressions(board)
                    for text in check_dashboards.query_problems(expression, prometheus.url, ["DCGM_"])
                ]

            eventually("recording rules have seen the counters move", lambda: not problems())
            assert sum(len(check_dashboards.expressions(board)) for board in boards.values()) > 50
            eventually("rules are evaluated", lambda: all(rule["health"] != "unknown" for rule in prometheus.rules()))
            assert {
                rule["name"]: rule.get("lastError", "") for rule in prometheus.rules() if rule["health"] != "ok"
            } == {}
            assert len(prometheus.rules()) == 15

            store.jobs.finish(run.job_id, 1, JobState.FAILED, ErrorRecord("NON_FINITE_LOSS", "the loss is NaN"))
            eventually("NllNotFinite fires", lambda: bool(prometheus.query("ALERTS{alertname='NllNotFinite'}")))
            assert prometheus.query(f"ALERTS{{run_id='{waiting.job_id}'}}") == []

            for port in targets.values():
                text = read(f"http://127.0.0.1:{port}/metrics")
                lint = subprocess.run(
                    [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
                )
                assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")
    finally:
        server.shutdown()
        worker.register_death()
        connection.close()
