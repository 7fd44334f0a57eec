"""The exporter on a real Redis: what /metrics shows equals the ledger, and nothing is written."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.store.connection import connect
from services.store.errors import RedisForbids
from services.store.pool.placing import choose
from services.store.records import (
    CheckpointRecord,
    HostRecord,
    Hyperparameters,
    JobRecord,
    JobSpec,
    JobState,
    ServedModelRecord,
    StepRecord,
)
from services.store.store import Store
from services.trainer.supervision import exporter
from services.trainer.supervision.exporter import ExporterSettings, Source
from services.trainer.supervision.metrics import registry_for, serve
from tests.support.rq_workers import age, sign_in
from turnloom.embedded.ports import free_port

if TYPE_CHECKING:
    from tests.support.redis_fixtures import RedisServer
from tests.support.store_fixtures import store_of_a_ledger

store = pytest.fixture(store_of_a_ledger)


def read_only(store: Store, redis_url: str) -> str:
    """URL of a user that may read every key and write none."""
    store.redis.execute_command(
        "ACL", "SETUSER", "exporter", "on", ">pw", "~*", "+@read", "+@connection", "+time", "+info"
    )
    return redis_url.replace("redis://", "redis://exporter:pw@")


def scrape(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Page:
    """A served registry."""

    def __init__(self, url: str, gone_after: float = 900.0) -> None:
        self.source = Source(ExporterSettings(url, gone_after=gone_after))
        port, self.stop = serve(registry_for(self.source), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{port}/metrics"

    def value(self, name: str, **labels: str) -> float | None:
        return scrape(self.url).get((name, frozenset(labels.items())))


@pytest.fixture
def page(store: Store, redis_url: str) -> Iterator[Page]:
    page = Page(read_only(store, redis_url))
    yield page
    page.stop()
    page.source.close()


def running(store: Store) -> JobRecord:
    spec = JobSpec("tiny", "t/tiny", "ds", hyperparameters=Hyperparameters(lora_rank=8, learning_rate=2e-3))
    job = store.jobs.queue(store.jobs.create(spec).job.id, host="h1", planned_steps=4)
    claim = store.jobs.claim(job.id, 1, "w")
    assert claim is not None
    return claim.job


def step(number: int, attempt: int = 1, test: float | None = None) -> StepRecord:
    return StepRecord(
        number, attempt, epoch=2, conversations=2, rows=3, tokens=50, loss_tokens=20, target_bytes=80,
        nll_sum=number / 3, weight_sum=19.5, learning_rate=1e-3 / number,
        phase_seconds={"data": 0.02, "optim_step": 400.0},
        test_nll_sum=test, test_weight_sum=None if test is None else 10.0,
        test_target_bytes=None if test is None else 30,
    )  # fmt: skip


def test_zeros_are_there_as_soon_as_the_job_is(store: Store, page: Page) -> None:
    run = store.jobs.create(JobSpec("tiny", "t", "ds")).job.id
    shown = scrape(page.url)
    for split in ("train", "test"):
        for name in ("nll_nats", "loss_weight", "target_bytes"):
            assert shown[f"turnloom_run_{name}_total", frozenset({("run_id", run), ("split", split)})] == 0
    for name in ("steps", "tokens", "loss_tokens", "examples"):
        assert shown[f"turnloom_run_{name}_total", frozenset({("run_id", run)})] == 0
    assert page.value("turnloom_run_state", run_id=run, state="validating") == 1
    assert page.value("turnloom_run_state", run_id=run, state="running") == 0
    assert page.value("turnloom_run_last_train_nll_nats", run_id=run) is None


def test_counters_are_all_work_done_and_gauges_the_effective_run(store: Store, page: Page) -> None:
    job = running(store)
    store.ledger.commit_checkpoint(job.id, CheckpointRecord("c0", "p", 0, 1))
    for record in (step(1, test=5.0), step(2), step(3, test=4.0)):
        store.ledger.commit_step(job.id, record)
    before = scrape(page.url)
    store.jobs.release(job.id, 1, "server_restarted", "x")
    store.jobs.claim(job.id, 2, "w2")
    after = scrape(page.url)
    for key, value in before.items():
        if key[0].startswith("turnloom_run_") and key[0].endswith("_total"):
            assert after[key] >= value, f"{key} fell when the attempt began again"
    store.ledger.commit_step(job.id, step(1, 2, test=6.0))
    work = store.jobs.get(job.id).work
    run = {"run_id": job.id}
    assert page.value("turnloom_run_nll_nats_total", **run, split="train") == work.nll == 1 / 3 + 2 / 3 + 3 / 3 + 1 / 3
    assert page.value("turnloom_run_loss_weight_total", **run, split="train") == 4 * 19.5
    assert page.value("turnloom_run_nll_nats_total", **run, split="test") == 15.0
    assert page.value("turnloom_run_loss_weight_total", **run, split="test") == 30.0
    assert page.value("turnloom_run_target_bytes_total", **run, split="test") == 90
    assert page.value("turnloom_run_steps_total", **run) == 4
    assert page.value("turnloom_run_tokens_total", **run) == 200
    assert page.value("turnloom_run_examples_total", **run) == 12
    assert page.value("turnloom_run_step", **run) == 1
    assert page.value("turnloom_run_planned_steps", **run) == 4
    assert page.value("turnloom_run_epoch", **run) == 2
    assert page.value("turnloom_run_learning_rate", **run) == 1e-3
    assert page.value("turnloom_run_last_train_nll_nats", **run) == 1 / 3 / 19.5
    assert page.value("turnloom_run_test_nll_nats", **run) == 0.6
    assert page.value("turnloom_run_best_test_nll_nats", **run) == 0.6
    assert abs((page.value("turnloom_run_last_step_timestamp_seconds", **run) or 0) - time.time()) < 60
    info = {"base_model": "tiny", "lora_rank": "8", "learning_rate": "0.002", "dataset": "ds", "host": "h1"}
    assert page.value("turnloom_run_info", **run, **info, attempt="2") == 1


def test_worker_counters_and_the_phase_histogram(store: Store, page: Page) -> None:
    job = running(store)
    for number in (1, 2):
        store.ledger.commit_step(job.id, step(number))
    store.ledger.commit_step(job.id, step(1))
    store.ledger.commit_step(job.id, step(9, attempt=7))
    store.jobs.count("retries", "OUT_OF_MEMORY")
    store.jobs.count("checkpoints", "failed")
    store.ledger.commit_checkpoint(job.id, CheckpointRecord("c", "p", 2, 1))
    store.jobs.release(job.id, 1, "oom", "x")
    name = "turnloom_trainer_step_duration_seconds"
    assert page.value(f"{name}_bucket", phase="data", le="0.01") == 0
    assert page.value(f"{name}_bucket", phase="data", le="0.05") == 2
    assert page.value(f"{name}_bucket", phase="data", le="+Inf") == 2
    assert page.value(f"{name}_bucket", phase="optim_step", le="300.0") == 0
    assert page.value(f"{name}_count", phase="optim_step") == 2
    assert page.value(f"{name}_sum", phase="optim_step") == 800
    assert page.value("turnloom_trainer_retries_total", reason="OUT_OF_MEMORY") == 1
    assert page.value("turnloom_trainer_checkpoints_total", outcome="failed") == 1
    assert page.value("turnloom_trainer_checkpoints_total", outcome="saved") == 1
    assert page.value("turnloom_trainer_resumes_total", reason="oom") == 1
    assert page.value("turnloom_trainer_fenced_commits_total") == 1


def test_hosts_queues_and_workers(store: Store, page: Page) -> None:
    store.hosts.put(HostRecord("h1", models=(ServedModelRecord("m"),), backend_up=True))
    store.hosts.put(HostRecord("h2"))
    running(store)
    waiting = store.jobs.queue(store.jobs.create(JobSpec("m", "m", "ds")).job.id, host="h1", planned_steps=1)
    store.tickets.enqueue(waiting)
    store.tickets.call("preprocess", "module.function", {"a": 1}, timeout=5)
    (worker,) = sign_in(store, "train.h1")
    store.redis.hset(worker, "last_heartbeat", "2026-01-02T03:04:05.500000Z")
    assert page.value("turnloom_backend_up", host="h1") == 1
    assert page.value("turnloom_backend_up", host="h2") == 0
    assert page.value("turnloom_jobs", queue="train.h1", state="queued") == 1
    assert page.value("turnloom_jobs", queue="train.h1", state="running") == 1
    assert page.value("turnloom_jobs", queue="train.h2", state="running") == 0
    assert page.value("turnloom_jobs", queue="preprocess", state="queued") == 1
    age_of_oldest = page.value("turnloom_queue_oldest_job_age_seconds", queue="train.h1")
    assert age_of_oldest is not None
    assert 0 <= age_of_oldest < 60
    assert page.value("turnloom_worker_last_heartbeat_timestamp_seconds", worker="train.h1-0") == 1767323045.5


def test_runs_say_whether_they_are_accelerated_and_why_not(store: Store, page: Page) -> None:
    job = running(store)
    assert page.value("turnloom_run_accelerated", run_id=job.id, reason="") is None  # the host is silent
    served = ServedModelRecord(job.spec.tuft_model, accelerated=False, not_accelerated="there is no CUDA GPU")
    store.hosts.put(HostRecord(job.host, models=(served,)))
    assert page.value("turnloom_run_accelerated", run_id=job.id, reason="there is no CUDA GPU") == 0
    store.hosts.put(HostRecord(job.host, models=(replace(served, accelerated=True, not_accelerated=""),)))
    assert page.value("turnloom_run_accelerated", run_id=job.id, reason="") == 1


def test_a_run_disappears_some_time_after_its_end(store: Store, redis_url: str, page: Page) -> None:
    soon = Page(redis_url, gone_after=0.5)
    try:
        job = running(store)
        assert soon.value("turnloom_run_state", run_id=job.id, state="running") == 1
        store.jobs.finish(job.id, 1, JobState.SUCCEEDED)
        end = time.monotonic() + 60
        while soon.value("turnloom_run_step", run_id=job.id) is not None:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert not any("run_id" in dict(labels) for _, labels in scrape(soon.url))
        assert page.value("turnloom_run_state", run_id=job.id, state="succeeded") == 1  # its time is not over
    finally:
        soon.stop()
        soon.source.close()


def test_a_user_that_may_write_nothing_is_enough(store: Store, redis_url: str, page: Page) -> None:
    job = running(store)
    with pytest.raises(RedisForbids, match="no permissions"):
        connect(read_only(store, redis_url)).set("tl:x", "1")
    assert page.value("turnloom_run_step", run_id=job.id) == 0


def test_without_redis_the_scrape_fails_with_a_sentence_and_comes_back_and_the_log_says_each_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    page = Page(redis_server.url)
    caplog.set_level("INFO", logger="turnloom.exporter")
    try:
        scrape(page.url)
        redis_server.stop()
        for _ in range(3):
            with pytest.raises(urllib.error.HTTPError, match="503") as caught:
                scrape(page.url)
            assert caught.value.read().decode().startswith("Redis can't be reached (")
        redis_server.start()
        scrape(page.url)
        scrape(page.url)
        failing, again = (record.getMessage() for record in caplog.records if record.name == "turnloom.exporter")
        assert failing.startswith("scrapes fail (Redis can't be reached (")
        assert again.startswith("scrapes fail: that is over, after ")
        assert "Traceback" not in capfd.readouterr().err
    finally:
        page.stop()
        page.source.close()


def test_every_name_has_help_and_follows_the_conventions(store: Store, page: Page) -> None:
    running(store)
    with urllib.request.urlopen(page.url, timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert len(families) > 20
    for family in families:
        assert re.fullmatch(r"turnloom_[a-z_]+", family.name)
        assert family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge", "histogram")


def test_the_process_serves_and_ends_cleanly_on_sigterm(store: Store, redis_url: str) -> None:
    port = free_port()
    settings = ExporterSettings(redis_url, host="127.0.0.1", port=port)
    process = multiprocessing.get_context("spawn").Process(target=exporter.run, args=(settings,))
    process.start()
    end = time.monotonic() + 120
    while True:
        try:
            scrape(f"http://127.0.0.1:{port}/metrics")
            break
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 0


def test_the_pool_is_shown_by_model_host_and_owner_and_its_jobs_are_no_runs(store: Store, page: Page) -> None:
    model = (ServedModelRecord("tuft/m"),)
    store.hosts.put(HostRecord("h1", models=model, backend_up=True))
    *_, killed = sign_in(store, "train.h1", 3)
    age(store, killed)
    for owner in ("anna", "anna", "ben"):
        job = store.jobs.create(JobSpec("m", "tuft/m", "ds", owner=owner)).job
        store.jobs.queue(job.id, host="", planned_steps=3)
    (choice,) = choose(store.pool.waiting(), store.pool.load())[:1]
    store.pool.assign([choice])
    found = scrape(page.url)

    def value(name: str, **labels: str) -> float | None:
        return found.get((name, frozenset(labels.items())))

    assert value("turnloom_pool_waiting_jobs", model="tuft/m") == 2
    oldest_wait = value("turnloom_pool_oldest_wait_seconds", model="tuft/m")
    assert oldest_wait is not None
    assert oldest_wait >= 0
    assert value("turnloom_pool_free_workers", host="h1") == 1
    placed = store.jobs.get(choice.job).spec.owner
    assert value("turnloom_owner_jobs", owner=placed, place="host") == 1
    runs = {dict(labels)["run_id"] for name, labels in found if name == "turnloom_run_step"}
    assert runs == {choice.job}


def paused(store: Store) -> JobRecord:
    job = running(store)
    store.jobs.pause(job.id)
    return store.jobs.finish(job.id, 1, JobState.PAUSED)


def commands(store: Store, name: str) -> int:
    """How often a command was run on this Redis."""
    return int(store.redis.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0))


def test_a_scrape_reads_no_job_that_paused_long_ago_and_counts_all_that_are(store: Store, page: Page) -> None:
    job, old = running(store), [paused(store) for _ in range(12)]
    lately = paused(store)
    hours_ago = store.redis.time()[0] - 7200
    store.redis.zadd("tl:run:paused", dict.fromkeys([one.id for one in old], hours_ago), xx=True)
    before = commands(store, "hgetall")
    found = scrape(page.url)
    read = commands(store, "hgetall") - before
    runs = {dict(labels)["run_id"] for name, labels in found if name == "turnloom_run_step"}
    assert runs == {job.id, lately.id}
    assert found["turnloom_jobs", frozenset({"queue": "", "state": "paused"}.items())] == 13
    for one in old:
        store.jobs.cancel(one.id)
        store.jobs.delete(one.id)
    before = commands(store, "hgetall")
    scrape(page.url)
    assert commands(store, "hgetall") - before == read, "a scrape costs what is at work"
    store.jobs.resume(lately.id)
    assert page.value("turnloom_run_state", run_id=lately.id, state="queued") == 1
    assert store.redis.zcard("tl:run:paused") == 0
