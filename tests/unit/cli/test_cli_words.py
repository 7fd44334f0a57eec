from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from turnloom import errors
from turnloom.cli.running.exits import CODES, Exit, exit_code
from turnloom.cli.running.jsonable import to_plain
from turnloom.cli.watching import ending
from turnloom.display.live import JobView
from turnloom.display.words import buckets, count, duration, size
from turnloom.errors import InvalidInput
from turnloom.reading.splitting import split
from turnloom.v1 import datasets_pb2, training_pb2, types_pb2


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9999, "9999"),
        (10_000, "10k"),
        (12_345, "12.3k"),
        (999_900, "1M"),
        (1_234_567, "1.23M"),
        (5e12, "5e+03G"),
    ],
)
def test_counts_are_short(number: float, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1268, "1.27 kB"), (35_000_000, "35 MB"), (140e9, "140 GB")]
)
def test_sizes_have_a_unit(number: float, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (3661, "1:01:01")])
def test_durations_are_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def every_error(kind: type[errors.TurnloomError]) -> list[type[errors.TurnloomError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in every_error(child))]


def test_every_error_has_an_exit_code_of_its_own_class() -> None:
    for kind in every_error(errors.TurnloomError)[1:]:
        if kind.__module__ == "turnloom.errors":
            assert any(issubclass(kind, listed) for listed in CODES), kind
    assert exit_code(errors.NotFound("x")) is Exit.REFUSED
    assert exit_code(errors.InvalidArgument("x")) is Exit.BAD_INPUT
    assert exit_code(errors.ServerUnreachable("x")) is Exit.UNREACHABLE
    assert exit_code(errors.ServerFault("x")) is Exit.FAULT


def test_json_has_every_field_numbers_as_numbers_and_short_states() -> None:
    dataset = datasets_pb2.Dataset(
        id="ds-1", state=datasets_pb2.DATASET_STATE_READY, tokens=2**40, metadata={"b": "1", "a": "2"}
    )
    dataset.create_time.FromSeconds(0)
    plain = to_plain(dataset)
    assert list(plain) == [field.name for field in datasets_pb2.Dataset.DESCRIPTOR.fields]
    assert (plain["state"], plain["tokens"], plain["metadata"]) == ("READY", 2**40, {"a": "2", "b": "1"})
    assert (plain["create_time"], plain["ready_time"], plain["owner"]) == ("1970-01-01T00:00:00Z", None, "")


def test_json_shows_the_member_of_a_oneof_that_is_set_and_absent_numbers_as_null() -> None:
    update = training_pb2.WatchJobResponse(event_id="1-0", step=training_pb2.Step(step=3))
    plain = to_plain(update)
    assert set(plain) == {"event_id", "step"}
    assert plain["step"]["step"] == 3  # type: ignore[index,call-overload]
    assert plain["step"]["gpu_utilization"] is None  # type: ignore[index,call-overload]


def test_lengths_are_told_by_the_buckets_that_hold_something() -> None:
    histogram = types_pb2.Histogram(upper_bounds=[16, 32, 64], counts=[0, 3, 120, 7])
    assert buckets(histogram) == "3 with 16 to 31, 120 with 32 to 63, 7 with 64 or more"
    assert buckets(types_pb2.Histogram(upper_bounds=[16], counts=[0, 0])) == "none"
    assert buckets(types_pb2.Histogram()) == "none"


def test_the_end_of_a_job_says_bits_per_byte_beside_the_nll_where_they_are_known() -> None:
    progress = training_pb2.Progress(step=5, planned_steps=5, test_nll=2.0, best_test_nll=1.5)
    job = training_pb2.Job(id="job-1", state=training_pb2.JOB_STATE_SUCCEEDED, progress=progress)
    assert "  test NLL  2.0000 (last), 1.5000 (best)" in list(ending(job))
    job.progress.test_bits_per_byte = 0.25
    assert "  test NLL  2.0000 (last), 1.5000 (best); 0.2500 bits per byte" in list(ending(job))


@pytest.mark.parametrize(
    ("state", "offered"),
    [("RUNNING", False), ("PAUSING", False), ("PAUSED", True), ("FAILED", True), ("CANCELLED", True)],
)
def test_resume_is_offered_for_a_job_that_can_be_resumed(state: str, offered: bool) -> None:
    value = training_pb2.JobState.Value(f"JOB_STATE_{state}")
    job = training_pb2.Job(id="job-1", state=value, last_checkpoint="job-1-a1-s2")
    assert ("  Go on from its last checkpoint: turnloom resume job-1" in list(ending(job))) == offered


def step(number: int, second: int, nll: float = 1.0) -> training_pb2.WatchJobResponse:
    made = training_pb2.Step(step=number, nll_sum=nll * 4, weight_sum=4, tokens=100, time=Timestamp(seconds=second))
    return training_pb2.WatchJobResponse(event_id=f"{second}-0", step=made)


def test_rate_and_time_left_come_from_the_last_steps() -> None:
    view = JobView(training_pb2.Job(progress=training_pb2.Progress(planned_steps=10)))
    assert view.line() == "step 0/10"
    for number in range(1, 5):
        view.take(step(number, 1000 + 2 * number))
    assert view.tokens_per_second() == 50
    assert view.seconds_left() == 12
    assert view.line() == "step 4/10  NLL 1.0000  50 tok/s  12 s left"


def test_after_a_resume_the_view_goes_back_and_measures_anew() -> None:
    view = JobView(training_pb2.Job(progress=training_pb2.Progress(planned_steps=10)))
    for number in range(1, 5):
        view.take(step(number, 1000 + number))
    view.take(step(3, 2000, nll=0.5))
    assert (view.step, view.train_nll, view.tokens_per_second()) == (3, 0.5, 0.0)


def test_a_change_of_state_keeps_what_the_notice_does_not_say() -> None:
    view = JobView(training_pb2.Job(progress=training_pb2.Progress(planned_steps=10)))
    view.take(training_pb2.WatchJobResponse(job=training_pb2.Job(state=training_pb2.JOB_STATE_RUNNING)))
    assert (view.state, view.planned) == ("RUNNING", 10)


def test_a_split_depends_on_the_seed_only_and_loses_nothing() -> None:
    items = list(range(100))
    train, test = split(items, 0.15, seed=3)
    assert (train, test) == split(items, 0.15, seed=3)
    assert (train, test) != split(items, 0.15, seed=4)
    assert len(test) == 15
    assert sorted(train + test) == items
    assert len(split([1, 2], 0.01)[1]) == len(split([1, 2], 0.99)[0]) == 1


@pytest.mark.parametrize(("items", "fraction"), [([1], 0.5), ([1, 2], 0.0), ([1, 2], 1.0), ([1, 2], float("nan"))])
def test_a_split_that_is_impossible_is_refused(items: list[int], fraction: float) -> None:
    with pytest.raises(InvalidInput):
        split(items, fraction)
