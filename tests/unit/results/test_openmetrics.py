"""Steps as OpenMetrics text: what is written is what the official parser reads back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from turnloom.results.openmetrics import SOURCE, openmetrics
from turnloom.results.runs import Run
from turnloom.v1.training_pb2 import Job, Step


def step(number: int, milliseconds: int, **fields: float) -> Step:
    made = Step(
        step=number, epoch=1, nll_sum=0.1 * number, weight_sum=number / 3, tokens=7, learning_rate=1e-4, **fields
    )
    made.time.FromMilliseconds(milliseconds)
    return made


def samples(steps: list[Step], run_id: str = "job-1") -> dict[str, list[tuple[float, float]]]:
    """Name and split to (time, value) of each sample."""
    found: dict[str, list[tuple[float, float]]] = {}
    for family in text_string_to_metric_families("".join(openmetrics([Run(Job(id=run_id), steps)]))):
        for sample in family.samples:
            assert (sample.labels["run_id"], sample.labels["job"]) == (run_id, SOURCE)
            name = " ".join(filter(None, (sample.name, sample.labels.get("split", ""))))
            found.setdefault(name, []).append((float(sample.timestamp), sample.value))
    return found


def test_a_counter_is_the_sum_of_the_steps_so_far_and_begins_at_zero_with_the_evaluation_before_training() -> None:
    found = samples([step(0, 1000, test_nll_sum=9.0, test_weight_sum=3.0), step(1, 2000), step(2, 3500)])
    assert found["turnloom_run_tokens_total"] == [(1.0, 0), (2.0, 7), (3.5, 14)]
    assert found["turnloom_run_nll_nats_total train"] == [(1.0, 0), (2.0, 0.1), (3.5, 0.1 + 0.2)]
    assert found["turnloom_run_steps_total"] == [(1.0, 0), (2.0, 1), (3.5, 2)]


def test_a_gauge_has_the_value_of_its_step_and_a_test_value_stands_only_where_one_was_measured() -> None:
    found = samples([step(1, 1000), step(2, 2000, test_nll_sum=9.0, test_weight_sum=3.0), step(3, 3000)])
    assert found["turnloom_run_test_nll_nats"] == [(2.0, 3.0)]
    assert found["turnloom_run_nll_nats_total test"] == [(2.0, 9.0)]
    assert found["turnloom_run_last_train_nll_nats"] == [(1.0, 0.1 / (1 / 3)), (2.0, 0.2 / (2 / 3)), (3.0, 0.1 * 3 / 1)]


def test_a_step_that_is_no_number_is_written_as_the_format_wants_it() -> None:
    odd = Step(step=1, nll_sum=float("nan"), weight_sum=1, learning_rate=float("inf"))
    text = "".join(openmetrics([Run(Job(id="job-1"), [odd])]))
    assert 'turnloom_run_learning_rate{job="turnloom-export",run_id="job-1"} +Inf ' in text
    assert 'turnloom_run_last_train_nll_nats{job="turnloom-export",run_id="job-1"} NaN ' in text


def test_a_run_without_steps_is_a_whole_text_without_samples() -> None:
    lines = "".join(openmetrics([Run(Job(id="job-1"), [])])).splitlines()
    assert lines[-1] == "# EOF"
    assert all(line.startswith("# ") for line in lines)


def test_the_runs_of_a_file_stand_side_by_side_in_every_family() -> None:
    runs = [Run(Job(id="job-1"), [step(1, 1000), step(2, 2000)]), Run(Job(id="job-2"), [step(1, 500)])]
    # The parser refuses a family that stands in two places.
    families = list(text_string_to_metric_families("".join(openmetrics(runs))))
    found = next(family for family in families if family.name == "turnloom_run_step")
    assert [(one.labels["run_id"], float(one.timestamp), one.value) for one in found.samples] == [
        ("job-1", 1.0, 1.0),
        ("job-1", 2.0, 2.0),
        ("job-2", 0.5, 1.0),
    ]


def test_an_id_with_quotes_stays_one_label() -> None:
    assert samples([step(1, 1000)], run_id='a"b\\c\nd')


@given(st.lists(st.integers(0, 2_000_000_000_000), min_size=1, max_size=20))
def test_times_never_stand_still_or_go_back_whatever_the_clocks_said(times: list[int]) -> None:
    found = samples([step(number, time) for number, time in enumerate(times, 1)])
    seen = [time for time, _ in found["turnloom_run_step"]]
    assert seen == sorted(set(seen))
    assert len(seen) == len(times)
