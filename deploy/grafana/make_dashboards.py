"""The four dashboards, as code. Writes dashboards/*.json beside this file; --check fails where a file differs.

    python deploy/grafana/make_dashboards.py [--check]

Every curve of an NLL is a quotient of sums (docs/monitoring.md), so it is exact at any zoom.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from panels import Annotation, Dashboard, Panel, Query, Row, Variable, dashboard_json

FOLDER = Path(__file__).parent / "dashboards"
RATE = "$__rate_interval"
RUN = 'run_id=~"$run_id"'
NATS_PER_BIT = 0.6931471805599453  # ln 2


def rate(metric: str, labels: str = "", by: str = "") -> str:
    """The sum of the rates of all series of a counter, by labels or in one."""
    return f"sum {f'by ({by}) ' if by else ''}(rate({metric}{{{labels}}}[{RATE}]))"


def quotient(above: str, below: str) -> str:
    """Nothing where the divisor is 0, instead of NaN."""
    return f"{above} / ({below} > 0)"


def quantile(q: float, histogram: str, labels: str, by: str) -> str:
    """A quantile of a histogram by one label."""
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', labels, f'le, {by}')})"


def nll(split: str, by: str = "run_id") -> str:
    """Token-weighted mean NLL over the shown interval, nats per unit of weight."""
    labels = f'{RUN},split="{split}"'
    return quotient(rate("turnloom_run_nll_nats_total", labels, by), rate("turnloom_run_loss_weight_total", labels, by))


def bits_per_byte(split: str) -> str:
    """NLL in bits over the bytes of the trained text: comparable between tokenizers."""
    labels = f'{RUN},split="{split}"'
    nats = rate("turnloom_run_nll_nats_total", labels, "run_id")
    return quotient(f"{nats} / {NATS_PER_BIT}", rate("turnloom_run_target_bytes_total", labels, "run_id"))


def stat(title: str, expr: str, unit: str = "short", decimals: int | None = None, no_value: str = "") -> Panel:
    """One number, four columns wide."""
    return Panel(title, [Query(expr)], unit, kind="stat", width=4, height=4, decimals=decimals, no_value=no_value)


def for_run(metric: str) -> str:
    """One gauge of the chosen runs, whatever else labels it."""
    return f"max by (run_id) ({metric}{{{RUN}}})"


def mixed(counter: str) -> str:
    """The rate of a counter by dataset of a mixture."""
    return rate(f"turnloom_run_mix_{counter}_total", RUN, "run_id, dataset")


def mixed_all(counter: str) -> str:
    """The same of all datasets together."""
    return rate(f"turnloom_run_mix_{counter}_total", RUN, "run_id")


ONE_DATASET = "the run has one dataset"
UNTESTED = "not evaluated"
NO_PRICE = "no price: TURNLOOM_GPU_HOUR_PRICE of the worker"
NO_GPU = "No DCGM exporter is scraped: docker compose --profile gpu --profile gpu-metrics up -d"
STEP_SECONDS = "turnloom_trainer_step_duration_seconds"

#: What the values of turnloom_run_accelerated mean.
TRAINED_BY = {
    "type": "value",
    "options": {
        "0": {"text": "stock TuFT", "color": "yellow", "index": 0},
        "1": {"text": "accelerated", "color": "green", "index": 1},
    },
}

RUN_DASHBOARD = Dashboard(
    uid="turnloom-run",
    title="Turnloom run",
    description="One training job: masked NLL, throughput, phases of a step, the GPU below it.",
    variables=[Variable("run_id", "label_values(turnloom_run_state, run_id)", "Run")],
    annotations=[
        Annotation(
            "Checkpoints",
            f"1000 * {for_run('turnloom_run_last_checkpoint_timestamp_seconds')}",
            "checkpoint",
            "blue",
            value_is_time=True,
        ),
        Annotation(
            "Attempts",
            f"turnloom_run_info{{{RUN}}} unless turnloom_run_info{{{RUN}}} offset 1m",
            "attempt {{attempt}} on {{host}}",
            "orange",
        ),
    ],
    rows=[
        Row(
            "Now",
            [
                Panel(
                    "State",
                    [Query(f"max by (state) (turnloom_run_state{{{RUN}}}) == 1", "{{state}}")],
                    kind="stat",
                    width=4,
                    height=4,
                    text="name",
                ),
                stat(
                    "Progress",
                    f"{for_run('turnloom_run_step')} / ({for_run('turnloom_run_planned_steps')} > 0)",
                    "percentunit",
                ),
                stat("Time left", f"run:turnloom_run_eta_seconds:rate5m{{{RUN}}}", "s"),
                stat("Train NLL, last step", for_run("turnloom_run_last_train_nll_nats"), decimals=4),
                stat("Test NLL, last evaluation", for_run("turnloom_run_test_nll_nats"), decimals=4, no_value=UNTESTED),
                stat("Time on the GPU", f"sum({for_run('turnloom_run_training_seconds_total')})", "s"),
                stat(
                    "Cost",
                    f"sum by (currency) (max by (run_id, currency) (turnloom_run_cost_total{{{RUN}}}))",
                    decimals=2,
                    no_value=NO_PRICE,
                ),
                stat("Test NLL, best", for_run("turnloom_run_best_test_nll_nats"), decimals=4, no_value=UNTESTED),
            ],
        ),
        Row(
            "Loss",
            [
                Panel(
                    "Masked NLL",
                    [
                        Query(nll("train"), "train, mean of the interval"),
                        Query(for_run("turnloom_run_test_nll_nats"), "test, last evaluation"),
                    ],
                    width=16,
                    height=10,
                    decimals=3,
                    description="Nats per unit of target weight. Train: sum over sum of all steps in each interval.",
                ),
                Panel(
                    "Bits per byte",
                    [Query(bits_per_byte("train"), "train"), Query(bits_per_byte("test"), "test")],
                    width=8,
                    height=10,
                    decimals=3,
                    description="Bits per UTF-8 byte of the trained text: comparable between tokenizers.",
                ),
                Panel(
                    "Learning rate",
                    [Query(f"{for_run('turnloom_run_learning_rate')} > 0", "learning rate")],
                    "sci",
                    decimals=2,
                    width=8,
                ),
                Panel(
                    "Steps",
                    [
                        Query(for_run("turnloom_run_step"), "step"),
                        Query(for_run("turnloom_run_planned_steps"), "planned"),
                    ],
                    width=8,
                    minimum=0,
                ),
                Panel("Epoch", [Query(f"{for_run('turnloom_run_epoch')} > 0", "epoch")], width=8, minimum=0),
                Panel(
                    "Masked NLL by dataset",
                    [Query(quotient(mixed("nll_nats"), mixed("loss_weight")), "{{dataset}}")],
                    width=16,
                    decimals=3,
                    no_value=ONE_DATASET,
                    description="Of a mixture: nats per unit of target weight, mean of the interval.",
                ),
                Panel(
                    "Conversations by dataset, share",
                    [
                        Query(
                            f"{mixed('conversations')} / on (run_id) group_left () ({mixed_all('conversations')} > 0)",
                            "{{dataset}}",
                        )
                    ],
                    "percentunit",
                    width=8,
                    minimum=0,
                    no_value=ONE_DATASET,
                ),
            ],
        ),
        Row(
            "Throughput",
            [
                Panel(
                    "Tokens per second",
                    [
                        Query(rate("turnloom_run_tokens_total", RUN, "run_id"), "all"),
                        Query(rate("turnloom_run_loss_tokens_total", RUN, "run_id"), "with weight"),
                    ],
                    "short",
                    minimum=0,
                ),
                Panel(
                    "Examples and steps per second",
                    [
                        Query(rate("turnloom_run_examples_total", RUN, "run_id"), "examples"),
                        Query(rate("turnloom_run_steps_total", RUN, "run_id"), "steps"),
                    ],
                    "short",
                    minimum=0,
                ),
                Panel(
                    "Phases of a step, mean of all runs",
                    [
                        Query(
                            quotient(
                                rate(f"{STEP_SECONDS}_sum", by="phase"), rate(f"{STEP_SECONDS}_count", by="phase")
                            ),
                            "{{phase}}",
                        )
                    ],
                    "s",
                    minimum=0,
                ),
                Panel(
                    "Tokens with weight, share of all",
                    [Query(f"run:turnloom_run_loss_token_share:ratio2m{{{RUN}}}", "share")],
                    "percentunit",
                    minimum=0,
                ),
                Panel(
                    "Trained by",
                    [Query(f"max by (run_id, reason) (turnloom_run_accelerated{{{RUN}}})", "{{reason}}")],
                    kind="stat",
                    width=24,
                    height=4,
                    text="value_and_name",
                    mappings=[TRAINED_BY],
                    no_value="not known: the host is silent, or its model is still loading",
                    description="Whether the host's TuFT uses Turnloom's accelerated model, and why not.",
                ),
            ],
        ),
        Row(
            "GPU",
            [
                Panel(
                    "GPU utilization",
                    [Query("DCGM_FI_DEV_GPU_UTIL", "{{Hostname}} GPU {{gpu}}")],
                    "percent",
                    minimum=0,
                    no_value=NO_GPU,
                ),
                Panel(
                    "GPU memory in use",
                    [Query("DCGM_FI_DEV_FB_USED * 1048576", "{{Hostname}} GPU {{gpu}}")],
                    "bytes",
                    minimum=0,
                    no_value=NO_GPU,
                    description="DCGM exporter (profile gpu-metrics) counts MiB.",
                ),
            ],
        ),
    ],
)

#: Hyperparameters as labels: the newest attempt's, also of runs that are no longer exported.
SETTING_LABELS = "base_model, dataset, lora_rank, learning_rate"
INFO = f"max by (run_id, {SETTING_LABELS}) (last_over_time(turnloom_run_info{{{RUN}}}[$__range]))"
LABELS = f"group_left ({SETTING_LABELS})"
SETTINGS = "rank {{lora_rank}} lr {{learning_rate}} {{run_id}}"
FINAL = f"max by (run_id) (last_over_time(turnloom_run_test_nll_nats{{{RUN}}}[$__range])) * on (run_id) {LABELS} {INFO}"

SWEEP_DASHBOARD = Dashboard(
    uid="turnloom-sweep",
    title="Turnloom sweep",
    description="Runs side by side: curves, and the final test NLL by rank and learning rate.",
    since="now-6h",
    variables=[Variable("run_id", "label_values(turnloom_run_state, run_id)", "Runs", several=True)],
    rows=[
        Row(
            "Curves",
            [
                Panel(
                    "Train NLL",
                    [Query(f"{nll('train')} * on (run_id) {LABELS} {INFO}", SETTINGS)],
                    height=11,
                    decimals=4,
                ),
                Panel(
                    "Test NLL",
                    [Query(f"{for_run('turnloom_run_test_nll_nats')} * on (run_id) {LABELS} {INFO}", SETTINGS)],
                    height=11,
                    decimals=4,
                ),
                Panel(
                    "Learning rate",
                    [Query(f"{for_run('turnloom_run_learning_rate')} > 0", "{{run_id}}")],
                    "sci",
                    decimals=2,
                ),
                Panel(
                    "Tokens per second",
                    [Query(rate("turnloom_run_tokens_total", RUN, "run_id"), "{{run_id}}")],
                    minimum=0,
                ),
            ],
        ),
        Row(
            "Result",
            [
                Panel(
                    "Final test NLL by rank and learning rate",
                    [Query(f"sort({FINAL})", table=True)],
                    kind="table",
                    width=12,
                    height=12,
                    decimals=4,
                    description="Nats per unit of weight, last evaluation of each run in the shown time, best first.",
                    transformations=[
                        {
                            "id": "organize",
                            "options": {
                                "excludeByName": {"Time": True},
                                "indexByName": {"Value": 0, "lora_rank": 1, "learning_rate": 2, "run_id": 3},
                                "renameByName": {
                                    "Value": "test NLL",
                                    "lora_rank": "rank",
                                    "learning_rate": "learning rate",
                                },
                            },
                        }
                    ],
                ),
                Panel(
                    "Best by rank",
                    [Query(f"min by (lora_rank) ({FINAL})", "rank {{lora_rank}}")],
                    kind="bargauge",
                    width=6,
                    height=12,
                    decimals=4,
                ),
                Panel(
                    "Best by learning rate",
                    [Query(f"min by (learning_rate) ({FINAL})", "{{learning_rate}}")],
                    kind="bargauge",
                    width=6,
                    height=12,
                    decimals=4,
                ),
            ],
        ),
    ],
)

RPC = 'grpc_service=~"turnloom.*"'
MODEL = 'model=~"$model"'

PREPROCESS_DASHBOARD = Dashboard(
    uid="turnloom-preprocess",
    title="Turnloom preprocess",
    description="The API: calls, latency, what preprocessing made and what it refused.",
    variables=[Variable("model", "label_values(turnloom_preprocess_examples_total, model)", "Model", several=True)],
    rows=[
        Row(
            "Calls",
            [
                Panel(
                    "Calls begun per second",
                    [Query(rate("grpc_server_started_total", RPC, "grpc_method"), "{{grpc_method}}")],
                    "reqps",
                    minimum=0,
                ),
                Panel(
                    "Calls ended per second, by status",
                    [Query(rate("grpc_server_handled_total", RPC, "grpc_code"), "{{grpc_code}}")],
                    "reqps",
                    minimum=0,
                ),
                Panel(
                    "Time of a call",
                    [
                        Query(
                            quantile(0.5, "grpc_server_handling_seconds", RPC, "grpc_method"), "{{grpc_method}} median"
                        ),
                        Query(
                            quantile(0.95, "grpc_server_handling_seconds", RPC, "grpc_method"), "{{grpc_method}} 95 %"
                        ),
                    ],
                    "s",
                    minimum=0,
                ),
                Panel(
                    "Calls in progress",
                    [
                        Query(
                            f"sum by (grpc_method) (grpc_server_started_total{{{RPC}}}) - on (grpc_method) "
                            f"sum by (grpc_method) (grpc_server_handled_total{{{RPC}}})",
                            "{{grpc_method}}",
                        )
                    ],
                    minimum=0,
                ),
            ],
        ),
        Row(
            "Work",
            [
                Panel(
                    "Examples per second",
                    [
                        Query(
                            rate("turnloom_preprocess_examples_total", MODEL, "model, outcome"), "{{model}} {{outcome}}"
                        )
                    ],
                    minimum=0,
                ),
                Panel(
                    "Tokens per second",
                    [
                        Query(rate("turnloom_preprocess_tokens_total", MODEL, "model"), "{{model}} all"),
                        Query(rate("turnloom_preprocess_loss_tokens_total", MODEL, "model"), "{{model}} with weight"),
                    ],
                    minimum=0,
                ),
                Panel(
                    "Stages, 95 % of the batches",
                    [Query(quantile(0.95, "turnloom_preprocess_stage_duration_seconds", "", "stage"), "{{stage}}")],
                    "s",
                    minimum=0,
                ),
                Panel(
                    "Examples cut by max_length",
                    [Query(f"model:turnloom_preprocess_truncated_share:ratio15m{{{MODEL}}}", "{{model}}")],
                    "percentunit",
                    minimum=0,
                ),
                Panel(
                    "Conversations refused per second",
                    [Query(f"{rate('turnloom_preprocess_issues_total', '', 'code')} > 0", "{{code}}")],
                    minimum=0,
                ),
                Panel(
                    "Memory of the API",
                    [Query('process_resident_memory_bytes{job="turnloom-preprocess"}', "{{instance}}")],
                    "bytes",
                    minimum=0,
                ),
            ],
        ),
    ],
)

UP_AND_DOWN = [
    {"type": "value", "options": {"0": {"text": "down", "color": "red"}, "1": {"text": "up", "color": "green"}}}
]

QUEUE_DASHBOARD = Dashboard(
    uid="turnloom-queue",
    title="Turnloom queues and workers",
    description="What waits, who works, and what went wrong on the way.",
    rows=[
        Row(
            "Now",
            [
                Panel(
                    "TuFT",
                    [Query("max by (host) (turnloom_backend_up)", "{{host}}")],
                    kind="stat",
                    width=8,
                    height=4,
                    mappings=UP_AND_DOWN,
                ),
                Panel(
                    "Scrapes",
                    [Query("max by (job) (up)", "{{job}}")],
                    kind="stat",
                    width=8,
                    height=4,
                    mappings=UP_AND_DOWN,
                ),
                Panel(
                    "Last sign of each worker",
                    [
                        Query(
                            "time() - max by (worker) (turnloom_worker_last_heartbeat_timestamp_seconds)", "{{worker}}"
                        )
                    ],
                    "s",
                    kind="stat",
                    width=8,
                    height=4,
                ),
            ],
        ),
        Row(
            "Waiting for a host",
            [
                Panel("Jobs by model", [Query("max by (model) (turnloom_pool_waiting_jobs)", "{{model}}")], minimum=0),
                Panel(
                    "Longest wait",
                    [Query("max by (model) (turnloom_pool_oldest_wait_seconds)", "{{model}}")],
                    "s",
                    minimum=0,
                ),
                Panel("Free workers", [Query("max by (host) (turnloom_pool_free_workers)", "{{host}}")], minimum=0),
                Panel(
                    "Jobs of each owner",
                    [Query("max by (owner, place) (turnloom_owner_jobs)", "{{owner}} {{place}}")],
                    minimum=0,
                ),
            ],
        ),
        Row(
            "Queues",
            [
                Panel("Jobs", [Query("sum by (queue, state) (turnloom_jobs)", "{{queue}} {{state}}")], minimum=0),
                Panel(
                    "Age of the oldest waiting job",
                    [Query("max by (queue) (turnloom_queue_oldest_job_age_seconds)", "{{queue}}")],
                    "s",
                    minimum=0,
                ),
            ],
        ),
        Row(
            "Workers",
            [
                Panel(
                    "Phases of a step, 95 %",
                    [Query(quantile(0.95, STEP_SECONDS, "", "phase"), "{{phase}}")],
                    "s",
                    minimum=0,
                ),
                Panel(
                    "Retries per hour",
                    [Query("sum by (reason) (increase(turnloom_trainer_retries_total[1h]))", "{{reason}}")],
                    minimum=0,
                ),
                Panel(
                    "Resumed runs per hour",
                    [Query("sum by (reason) (increase(turnloom_trainer_resumes_total[1h]))", "{{reason}}")],
                    minimum=0,
                ),
                Panel(
                    "Checkpoints per hour",
                    [Query("sum by (outcome) (increase(turnloom_trainer_checkpoints_total[1h]))", "{{outcome}}")],
                    minimum=0,
                ),
                Panel(
                    "Commits of an old attempt refused per hour",
                    [Query("sum (increase(turnloom_trainer_fenced_commits_total[1h]))", "refused")],
                    minimum=0,
                ),
                Panel(
                    "Time of a scrape",
                    [Query('scrape_duration_seconds{job=~"turnloom-.*"}', "{{job}}")],
                    "s",
                    minimum=0,
                ),
            ],
        ),
    ],
)

DASHBOARDS = {
    "run.json": RUN_DASHBOARD,
    "sweep.json": SWEEP_DASHBOARD,
    "preprocess.json": PREPROCESS_DASHBOARD,
    "queue.json": QUEUE_DASHBOARD,
}


def rendered() -> dict[str, str]:
    """File name to content."""
    return {name: json.dumps(dashboard_json(board), indent=1) + "\n" for name, board in DASHBOARDS.items()}


def main(check: bool) -> int:
    """Write the files, or compare them."""
    stale = [name for name, text in rendered().items() if not _same(FOLDER / name, text)]
    if check:
        for name in stale:
            print(f"{FOLDER / name} differs from make_dashboards.py; run it and commit the file.")  # noqa: T201
        return bool(stale)
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text)
    return 0


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
