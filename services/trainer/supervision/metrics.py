"""Store contents as Prometheus metrics, read at scrape. Counters are work done, gauges the effective run.

A source provides one Snapshot per scrape. docs/monitoring.md explains every name.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from services.outages import OutageLog
from services.store.errors import StoreError
from services.store.ledger import PHASE_BUCKETS
from services.store.pool.placing import Load, Waiting
from services.store.queueing.queues import queue_name
from services.store.records import TERMINAL, HostRecord, JobRecord, JobState, MixSums, Sums

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("turnloom.exporter")


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """One queue."""

    name: str
    waiting: int  #: tickets
    oldest_age: float  #: seconds that the longest waiting one has waited; 0: none


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The data of one scrape."""

    runs: Sequence[JobRecord]  #: at work, or finished or paused not long ago
    hosts: Sequence[HostRecord]
    queues: Sequence[QueueSnapshot]
    workers: Mapping[str, float]  #: name to time of the last heartbeat
    counters: Mapping[str, float]  #: worker counters, names as the ledger writes them: "phase|data|0.5", "retries|OOM"
    now: float = 0.0  #: the store's clock, seconds since 1970
    paused: int = 0  #: PAUSED jobs, however long ago
    waiting: Sequence[Waiting] = ()  #: jobs without a host
    load: Load = field(default_factory=lambda: Load((), {}, {}))


#: Name without the prefix turnloom_run_ and the suffix _total, help, and the values for the splits train and test.
_SPLIT_COUNTERS: Sequence[tuple[str, str, Callable[[Sums], tuple[float, float]]]] = (
    (
        "nll_nats",
        "Sum of weighted negative log likelihood of all work done, nats.",
        lambda work: (work.nll, work.test_nll),
    ),
    ("loss_weight", "Sum of target weights of all work done.", lambda work: (work.weight, work.test_weight)),
    (
        "target_bytes",
        "UTF-8 bytes of trained text of all work done.",
        lambda work: (work.target_bytes, work.test_target_bytes),
    ),
)

#: The same without splits.
_RUN_COUNTERS: Sequence[tuple[str, str, Callable[[Sums], float]]] = (
    ("steps", "Optimizer steps, replayed ones included.", lambda work: work.steps),
    ("tokens", "Tokens trained on, replayed ones included.", lambda work: work.tokens),
    ("loss_tokens", "Targets with weight above 0, replayed ones included.", lambda work: work.loss_tokens),
    ("examples", "Rows trained on, replayed ones included.", lambda work: work.rows),
)

#: Name without the prefix turnloom_run_, help, value or None where there is none yet.
_RUN_GAUGES: Sequence[tuple[str, str, Callable[[JobRecord], float | None]]] = (
    ("step", "Last step of the effective run.", lambda job: job.step),
    ("planned_steps", "Steps that the run will have.", lambda job: job.planned_steps),
    ("epoch", "Epoch of the last step, from 1.", lambda job: job.epoch),
    ("learning_rate", "Learning rate of the last step.", lambda job: job.learning_rate),
    ("last_train_nll_nats", "Masked NLL of the last step, nats per unit of weight.", lambda job: job.last_train_nll),
    ("test_nll_nats", "Masked NLL of the last evaluation.", lambda job: job.test_nll),
    ("best_test_nll_nats", "Lowest masked NLL of an evaluation.", lambda job: job.best_test_nll),
    ("last_step_timestamp_seconds", "When the last step was committed.", lambda job: job.last_step_time or None),
    (
        "last_checkpoint_timestamp_seconds",
        "When the last checkpoint was saved.",
        lambda job: job.last_checkpoint_time or None,
    ),
    ("stored_step", "Step of the newest checkpoint in the object store.", lambda job: job.stored_step or None),
    (
        "checkpoint_store_lag_seconds",
        "From the save of the newest stored checkpoint to its arrival in the object store.",
        lambda job: job.stored_lag,
    ),
)

#: Name without the prefix turnloom_trainer_ and the suffix _total, help, label, prefix of the stored counter.
_WORKER_COUNTERS = (
    ("retries", "Calls that were tried again.", "reason", "retries|"),
    ("resumes", "Attempts that ended before their job did.", "reason", "resumes|"),
    ("checkpoints", "Checkpoints by outcome.", "outcome", "checkpoints|"),
)


class RunCollector(Collector):
    """Turns a fresh snapshot into metrics at every scrape."""

    def __init__(self, source: Callable[[], Snapshot]) -> None:
        self._source = source

    def describe(self) -> Sequence[Metric]:
        """Return nothing: registering must not read the store."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metric families."""
        snapshot = self._source()
        yield from _runs(snapshot.runs, snapshot.now)
        yield _accelerated(snapshot)
        yield from _worker(snapshot.counters)
        yield from _places(snapshot)


def registry_for(source: Callable[[], Snapshot]) -> CollectorRegistry:
    """Make a registry that holds only the collector."""
    registry = CollectorRegistry()
    registry.register(RunCollector(source))
    return registry


class _Telling:
    """A WSGI app that answers 503 with a sentence while Redis is away, and logs the outage, not every scrape.

    Prometheus takes any status but 200 as a target that is down.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app
        self._outage = OutageLog(log, "scrapes fail")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            answer = self._app(environ, start_response)
        except (StoreError, RedisError) as error:
            self._outage.failed(error)
            start_response("503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{error}\n".encode()]
        self._outage.went_through()
        return answer


def serve(registry: CollectorRegistry, host: str, port: int) -> tuple[int, Callable[[], None]]:
    """Serve /metrics in threads; return the port (port 0: a free one) and the function that ends it."""
    server, thread = start_http_server(port, host, registry)
    server.set_app(_Telling(make_wsgi_app(registry)))

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(10)

    return server.server_port, stop


def _runs(runs: Sequence[JobRecord], now: float) -> Iterator[Metric]:
    for name, text, both in _SPLIT_COUNTERS:
        counter = CounterMetricFamily(f"turnloom_run_{name}", text, labels=["run_id", "split"])
        for job in runs:
            for split, value in zip(("train", "test"), both(job.work), strict=True):
                counter.add_metric([job.id, split], value)
        yield counter
    for name, text, total in _RUN_COUNTERS:
        counter = CounterMetricFamily(f"turnloom_run_{name}", text, labels=["run_id"])
        for job in runs:
            counter.add_metric([job.id], total(job.work))
        yield counter
    yield from _mixes(runs)
    yield from _costs(runs, now)
    for name, text, value_of in _RUN_GAUGES:
        gauge = GaugeMetricFamily(f"turnloom_run_{name}", text, labels=["run_id"])
        for job in runs:
            measured = value_of(job)
            if measured is not None:
                gauge.add_metric([job.id], measured)
        yield gauge
    state = GaugeMetricFamily("turnloom_run_state", "1 for the state that the run is in.", labels=["run_id", "state"])
    info = GaugeMetricFamily(
        "turnloom_run_info",
        "What the run is; always 1.",
        labels=["run_id", "base_model", "lora_rank", "learning_rate", "dataset", "host", "attempt"],
    )
    failure = GaugeMetricFamily("turnloom_run_failure_info", "Why a run failed; always 1.", labels=["run_id", "code"])
    for job in runs:
        if job.state is JobState.FAILED and job.error is not None:
            failure.add_metric([job.id, job.error.code], 1)
        for candidate in JobState:
            state.add_metric([job.id, candidate.value], float(job.state is candidate))
        chosen = job.spec.hyperparameters
        dataset = " + ".join(part.dataset for part in job.spec.training)
        about = (chosen.lora_rank, chosen.learning_rate, dataset, job.host, job.attempt)
        info.add_metric([job.id, job.spec.model, *map(str, about)], 1)
    yield state
    yield info
    yield failure


#: The same as the first two of _SPLIT_COUNTERS by dataset of a mixture, of which a job has MAX_MIX at most.
_MIX_COUNTERS: Sequence[tuple[str, str, Callable[[MixSums], float]]] = (
    ("nll_nats", "Sum of weighted negative log likelihood by dataset, nats.", lambda work: work.nll),
    ("loss_weight", "Sum of target weights by dataset.", lambda work: work.weight),
    ("conversations", "Conversations trained on by dataset.", lambda work: work.conversations),
)


def _mixes(runs: Sequence[JobRecord]) -> Iterator[Metric]:
    for name, text, total in _MIX_COUNTERS:
        counter = CounterMetricFamily(f"turnloom_run_mix_{name}", text, labels=["run_id", "dataset"])
        for job in runs:
            for part, work in zip(job.spec.mix, job.work_mix, strict=False):  # no work before the first step
                counter.add_metric([job.id, part.dataset], total(work))
        yield counter


def _costs(runs: Sequence[JobRecord], now: float) -> Iterator[Metric]:
    held = CounterMetricFamily(
        "turnloom_run_training_seconds", "Seconds that workers held the run: time of the host's GPU.", labels=["run_id"]
    )
    cost = CounterMetricFamily(
        "turnloom_run_cost", "What those seconds cost, by the price of the host.", labels=["run_id", "currency"]
    )
    for job in runs:
        held.add_metric([job.id], job.training_seconds(now))
        spent = job.cost(now)
        if spent is not None:
            cost.add_metric([job.id, job.currency], spent)
    yield held
    yield cost


def _accelerated(snapshot: Snapshot) -> Metric:
    """Report per run whether its model is accelerated now; omit runs whose host is silent or still loading."""
    served = {(host.name, model.name): model for host in snapshot.hosts for model in host.models}
    gauge = GaugeMetricFamily(
        "turnloom_run_accelerated",
        "1 where the run's host trains its model accelerated, 0 where stock TuFT does, for the reason given.",
        labels=["run_id", "reason"],
    )
    for job in snapshot.runs:
        model = served.get((job.host, job.spec.tuft_model))
        if model is not None and model.accelerated is not None:
            gauge.add_metric([job.id, model.not_accelerated], float(model.accelerated))
    return gauge


def _worker(counters: Mapping[str, float]) -> Iterator[Metric]:
    steps = HistogramMetricFamily(
        "turnloom_trainer_step_duration_seconds", "Seconds of a step by phase, all runs together.", labels=["phase"]
    )
    bounds = [*map(str, PHASE_BUCKETS), "+Inf"]
    for phase in sorted({name.split("|")[1] for name in counters if name.startswith("phase|")}):
        within = list(accumulate(counters.get(f"phase|{phase}|{bound}", 0.0) for bound in bounds))
        total = counters.get(f"phase|{phase}|sum", 0.0)
        steps.add_metric([phase], buckets=list(zip(bounds, within, strict=True)), sum_value=total)
    yield steps
    for name, text, label, prefix in _WORKER_COUNTERS:
        counter = CounterMetricFamily(f"turnloom_trainer_{name}", text, labels=[label])
        for stored in sorted(counters):
            if stored.startswith(prefix):
                counter.add_metric([stored.removeprefix(prefix)], counters[stored])
        yield counter
    text = "Bytes of checkpoints copied to the object store."
    yield CounterMetricFamily("turnloom_trainer_stored_bytes", text, value=counters.get("stored_bytes", 0.0))
    fenced = counters.get("fenced", 0.0)
    yield CounterMetricFamily("turnloom_trainer_fenced_commits", "Commits of replaced attempts, refused.", value=fenced)


def _places(snapshot: Snapshot) -> Iterator[Metric]:
    backend = GaugeMetricFamily("turnloom_backend_up", "Whether TuFT answered the host's last probe.", labels=["host"])
    for host in snapshot.hosts:
        backend.add_metric([host.name], float(host.backend_up))
    yield backend
    price = GaugeMetricFamily(
        "turnloom_host_hour_price", "Price of an hour of training on the host.", labels=["host", "currency"]
    )
    for host in snapshot.hosts:
        if host.hour_price is not None:
            price.add_metric([host.name, host.currency], host.hour_price)
    yield price
    yield _jobs(snapshot)
    yield from _pool(snapshot)
    age = GaugeMetricFamily(
        "turnloom_queue_oldest_job_age_seconds", "Seconds that the longest waiting ticket waits.", labels=["queue"]
    )
    for queue in snapshot.queues:
        age.add_metric([queue.name], queue.oldest_age)
    yield age
    heartbeat = GaugeMetricFamily(
        "turnloom_worker_last_heartbeat_timestamp_seconds", "When a worker was last heard of.", labels=["worker"]
    )
    for worker, time in sorted(snapshot.workers.items()):
        heartbeat.add_metric([worker], time)
    yield heartbeat


def _pool(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield metrics of the pool: jobs that wait for a host, free workers, jobs by owner."""
    count = GaugeMetricFamily("turnloom_pool_waiting_jobs", "Jobs that wait for a host.", labels=["model"])
    oldest = GaugeMetricFamily(
        "turnloom_pool_oldest_wait_seconds", "Seconds that the longest waiting job waits for a host.", labels=["model"]
    )
    served = {model.name for host in snapshot.load.hosts for model in host.models}
    for model in sorted(served | {one.model for one in snapshot.waiting}):
        times = [one.time for one in snapshot.waiting if one.model == model]
        count.add_metric([model], len(times))
        oldest.add_metric([model], max(0.0, snapshot.now - min(times)) if times else 0.0)
    yield count
    yield oldest
    free = GaugeMetricFamily("turnloom_pool_free_workers", "Workers of a host without a job.", labels=["host"])
    for host in snapshot.load.hosts:
        free.add_metric([host.name], max(0, host.workers - snapshot.load.by_host.get(host.name, 0)))
    yield free
    owners = GaugeMetricFamily("turnloom_owner_jobs", "Jobs of an owner.", labels=["owner", "place"])
    waits = Counter(one.owner for one in snapshot.waiting)
    for owner in sorted({*waits, *snapshot.load.by_owner}):
        owners.add_metric([owner, "waiting"], waits[owner])
        owners.add_metric([owner, "host"], snapshot.load.by_owner.get(owner, 0))
    yield owners


def _jobs(snapshot: Snapshot) -> Metric:
    """Count jobs of the training queues by their own states, and waiting calls of other queues.

    PAUSED jobs are in no queue, and are counted without reading one of them.
    """
    jobs = GaugeMetricFamily("turnloom_jobs", "Jobs by queue and state.", labels=["queue", "state"])
    queued = [state for state in JobState if state not in TERMINAL and state is not JobState.PAUSED]
    hosts = {host.name for host in snapshot.hosts} | {job.host for job in snapshot.runs if job.host}
    for host in sorted(hosts):
        for state in queued:
            count = sum(job.host == host and job.state is state for job in snapshot.runs)
            jobs.add_metric([queue_name(host), state.value], count)
    jobs.add_metric(["", JobState.PAUSED.value], snapshot.paused)
    training = {queue_name(host) for host in hosts}
    for queue in snapshot.queues:
        if queue.name not in training:
            jobs.add_metric([queue.name, JobState.QUEUED.value], queue.waiting)
    return jobs
