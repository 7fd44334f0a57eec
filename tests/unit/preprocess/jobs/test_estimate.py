"""What a job costs and what its max_length cuts, against a plain count over the rows."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.preprocess.jobs.estimate import Time, cost, epoch, known_rates, planned_steps
from services.store.records import (
    CutReport,
    DatasetRecord,
    GpuRecord,
    HostRecord,
    Hyperparameters,
    JobRecord,
    JobSpec,
    JobState,
)
from services.store.shards.dataset_files import DatasetReader, DatasetWriter, Row
from services.trainer.batches.batching import Batches
from services.trainer.batches.dataset import trained_rows
from services.trainer.batches.mixing import Part

GPU_HOST = HostRecord(name="gpu", gpus=(GpuRecord("H200"),), hour_price=3.0, currency="EUR")
CPU_HOST = HostRecord(name="cpu")


def write(folder: Path, rows: list[tuple[int, list[tuple[int, float]]]]) -> DatasetRecord:
    """A dataset of rows given as (conversation, runs)."""
    with DatasetWriter(str(folder), "{}") as writer:
        for conversation, runs in rows:
            length = sum(count for count, _ in runs) + 1
            writer.append(
                Row(
                    conversation,
                    0,
                    np.zeros(length, dtype=np.int32),
                    np.array([count for count, _ in runs], dtype=np.uint32),
                    np.array([weight for _, weight in runs], dtype=np.float32),
                    0,
                )
            )
        written = writer.commit()
    return DatasetRecord(
        id="ds-x",
        options_json="{}",
        uri=written.uri,
        conversations=written.conversations,
        examples=written.rows,
        tokens=written.tokens,
        loss_tokens=written.loss_tokens,
    )


RUNS = st.lists(st.tuples(st.integers(1, 20), st.sampled_from([0.0, 0.5, 1.0])), max_size=3).map(
    lambda runs: [*runs, (1, 1.0)]  # every row of a dataset has something to train
)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(st.lists(st.tuples(st.booleans(), RUNS), min_size=1, max_size=8), st.integers(2, 70))
def test_a_cut_counts_what_a_plain_loop_counts(
    tmp_path: Path, drawn: list[tuple[bool, list[tuple[int, float]]]], max_length: int
) -> None:
    rows, conversation = [], 0
    for new, runs in drawn:
        conversation += new
        rows.append((conversation, runs))
    found = epoch(write(tmp_path, rows), max_length)
    kept: set[int] = set()
    tokens = loss_tokens = cut_rows = cut_tokens = emptied = 0
    for conversation, runs in rows:
        weights = [weight for count, weight in runs for _ in range(count)]
        length = len(weights) + 1
        left = weights[: max_length - 1]
        cut_rows += length > max_length
        cut_tokens += max(0, length - max_length)
        trained = sum(weight > 0 for weight in left)
        loss_tokens += trained
        if trained:
            kept.add(conversation)
            tokens += len(left) + 1
        else:
            emptied += 1
    assert found.cut == CutReport(cut_rows, cut_tokens, emptied)
    assert (found.conversations, found.tokens, found.loss_tokens) == (len(kept), tokens, loss_tokens)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(
    drawn=st.lists(st.tuples(st.booleans(), RUNS), min_size=1, max_size=12),
    max_length=st.none() | st.integers(2, 70),
    batch_size=st.integers(1, 5),
    epochs=st.integers(1, 3),
)
def test_what_is_planned_is_what_the_trainer_trains(
    tmp_path: Path,
    drawn: list[tuple[bool, list[tuple[int, float]]]],
    max_length: int | None,
    batch_size: int,
    epochs: int,
) -> None:
    rows, conversation = [], 0
    for new, runs in drawn:
        conversation += new
        rows.append((conversation, runs))
    record = write(tmp_path, rows)
    found = epoch(record, max_length)
    with DatasetReader(record.uri) as reader:
        trained, cut = trained_rows(reader, max_length)
        assert cut == found.cut
        assert found.loss_tokens == sum(row.loss_tokens for row in trained)
        if not len(trained):
            assert found.conversations == 0  # refused by the API, DATASET_UNUSABLE for the trainer
            return
        batches = Batches([Part(trained, trained.conversation_of)], batch_size, seed=0)
        assert found.conversations == batches.conversations
        chosen = Hyperparameters(batch_size=batch_size, epochs=epochs, max_length=max_length)
        assert planned_steps(found.conversations, chosen) == epochs * batches.steps_per_epoch
        assert cost(found, chosen, [], GPU_HOST).tokens >= epochs * sum(row.length for row in trained)


def test_without_a_max_length_the_file_is_not_read() -> None:
    record = DatasetRecord(id="x", options_json="{}", uri="/nowhere", conversations=5, tokens=50, loss_tokens=9)
    found = epoch(record, None)
    assert (found.conversations, found.tokens, found.loss_tokens, found.cut) == (5, 50, 9, CutReport())


@pytest.mark.parametrize(
    ("conversations", "chosen", "steps"),
    [
        (10, Hyperparameters(batch_size=4), 3),
        (10, Hyperparameters(batch_size=4, epochs=5), 15),
        (10, Hyperparameters(batch_size=100), 1),
        (10, Hyperparameters(batch_size=4, max_steps=7), 7),
    ],
)
def test_the_last_smaller_batch_of_an_epoch_is_a_step(conversations: int, chosen: Hyperparameters, steps: int) -> None:
    assert planned_steps(conversations, chosen) == steps


def test_part_of_an_epoch_costs_its_share() -> None:
    record = DatasetRecord(id="x", options_json="{}", conversations=10, tokens=1000, loss_tokens=100)
    whole = epoch(record, None)
    half = cost(whole, Hyperparameters(batch_size=5, max_steps=1), [50.0], GPU_HOST)
    assert (half.steps, half.tokens, half.loss_tokens) == (1, 500, 50)
    assert half.time == Time(10.0, low=5.0, high=20.0, jobs=1, gpu=True, hour_price=3.0, currency="EUR")
    assert cost(whole, Hyperparameters(batch_size=5), [], GPU_HOST).time is None


@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=9))
def test_the_time_is_that_of_the_median_rate_between_those_of_the_fastest_and_the_slowest(rates: list[float]) -> None:
    whole = epoch(DatasetRecord(id="x", options_json="{}", conversations=10, tokens=1000, loss_tokens=100), None)
    time = cost(whole, Hyperparameters(), rates, CPU_HOST).time
    assert time is not None
    assert time.low <= time.seconds <= time.high
    assert time.seconds * median(rates) == pytest.approx(1000)
    assert (time.jobs, time.gpu) == (len(rates), False)


def test_rates_are_of_the_jobs_most_like_this_one_on_that_host_and_not_of_their_first_steps() -> None:
    def job(rate: float, batch_size: int = 16, rank: int = 32, step: int = 9, host: str = "h") -> JobRecord:
        chosen = Hyperparameters(lora_rank=rank, batch_size=batch_size)
        spec = JobSpec(model="m", tuft_model="m", training_dataset="ds", hyperparameters=chosen)
        return JobRecord(id="j", spec=spec, state=JobState.RUNNING, host=host, tokens_per_second=rate, step=step)

    jobs = [job(1, batch_size=4), job(2, rank=8), job(3), job(4, step=4), job(5), job(0), job(6, host="g")]
    assert known_rates(jobs, "m", "h", Hyperparameters()) == [3, 5]
    assert known_rates(jobs, "m", "h", Hyperparameters(lora_rank=16)) == [2, 3, 5]
    assert known_rates(jobs, "m", "h", Hyperparameters(batch_size=64)) == [1, 2, 3, 5]
    assert known_rates(jobs, "m", "z", Hyperparameters()) == known_rates(jobs, "n", "h", Hyperparameters()) == []
    assert len(known_rates([job(1)] * 50, "m", "h", Hyperparameters())) == 9
