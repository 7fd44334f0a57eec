"""What training costs: settings of a worker, and the metrics of its runs."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from services.store.records import HostRecord, Hyperparameters, JobRecord, JobSpec, JobState, MixPart, MixSums
from services.trainer.settings import from_environment
from services.trainer.supervision.metrics import Snapshot, registry_for
from services.variables import BadSetting

NEEDED = {"TURNLOOM_HOST": "h", "TURNLOOM_TUFT_API_KEY": "tml-x", "TURNLOOM_TUFT_CHECKPOINT_DIR": "/x"}
SPEC = JobSpec("m", "tuft/m", "ds-1", "", Hyperparameters())


def test_a_worker_has_no_price_unless_it_is_set() -> None:
    assert from_environment(NEEDED).hour_price is None
    priced = from_environment({**NEEDED, "TURNLOOM_GPU_HOUR_PRICE": "2.5", "TURNLOOM_CURRENCY": "EUR"})
    assert (priced.hour_price, priced.currency) == (2.5, "EUR")
    free = from_environment({**NEEDED, "TURNLOOM_GPU_HOUR_PRICE": "0"})
    assert (free.hour_price, free.currency) == (0.0, "USD")


@pytest.mark.parametrize(
    ("name", "value"),
    [("GPU_HOUR_PRICE", "-1"), ("GPU_HOUR_PRICE", "nan"), ("GPU_HOUR_PRICE", "2,5"), ("CURRENCY", "euro")],
)
def test_a_price_that_is_none_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=f"TURNLOOM_{name}: '{value}' can't be used; give "):
        from_environment({**NEEDED, "TURNLOOM_GPU_HOUR_PRICE": "1", f"TURNLOOM_{name}": value})


def test_runs_show_time_and_cost_and_hosts_their_price() -> None:
    held = {"held_seconds": 100.0, "held_since": 1000.0, "held_cost": 1.0}
    runs = [
        JobRecord("job-a", SPEC, JobState.RUNNING, hour_price=36.0, currency="EUR", **held),
        JobRecord("job-b", SPEC, JobState.FAILED, held_seconds=7.0),
    ]
    hosts = [HostRecord("h", hour_price=36.0, currency="EUR"), HostRecord("plain")]
    text = generate_latest(registry_for(lambda: Snapshot(runs, hosts, [], {}, {}, now=1050.0))).decode()
    for line in (
        'turnloom_run_training_seconds_total{run_id="job-a"} 150.0',
        'turnloom_run_training_seconds_total{run_id="job-b"} 7.0',
        'turnloom_run_cost_total{currency="EUR",run_id="job-a"} 1.5',
        'turnloom_host_hour_price{currency="EUR",host="h"} 36.0',
    ):
        assert line in text.splitlines()
    assert 'turnloom_run_cost_total{currency="",' not in text
    assert 'turnloom_host_hour_price{currency="",' not in text


def test_a_mixture_has_series_by_dataset_once_something_was_trained() -> None:
    spec = JobSpec("m", "tuft/m", "ds-1", "", Hyperparameters(), mix=(MixPart("ds-1", 0.7), MixPart("ds-2", 0.3)))
    runs = [
        JobRecord("job-a", spec, JobState.RUNNING, work_mix=(MixSums(7, 70, 2.5, 9.0), MixSums(3, 30, 1.5, 4.0))),
        JobRecord("job-b", spec, JobState.QUEUED),
        JobRecord("job-c", SPEC, JobState.RUNNING),
    ]
    text = generate_latest(registry_for(lambda: Snapshot(runs, [], [], {}, {}))).decode()
    found = [line for line in text.splitlines() if line.startswith("turnloom_run_mix")]
    assert found == [
        'turnloom_run_mix_nll_nats_total{dataset="ds-1",run_id="job-a"} 2.5',
        'turnloom_run_mix_nll_nats_total{dataset="ds-2",run_id="job-a"} 1.5',
        'turnloom_run_mix_loss_weight_total{dataset="ds-1",run_id="job-a"} 9.0',
        'turnloom_run_mix_loss_weight_total{dataset="ds-2",run_id="job-a"} 4.0',
        'turnloom_run_mix_conversations_total{dataset="ds-1",run_id="job-a"} 7.0',
        'turnloom_run_mix_conversations_total{dataset="ds-2",run_id="job-a"} 3.0',
    ]
    assert 'dataset="ds-1 + ds-2"' in text
