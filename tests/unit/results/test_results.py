"""What curves say about a grid of runs, from steps made by hand."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.small_disk import small_disk
from turnloom.results import figures
from turnloom.results.files import Cell, bits_per_byte, rows, write_csv
from turnloom.results.noise import by_evaluations
from turnloom.results.parquet import write_parquet
from turnloom.results.runs import Run, differing, label, written
from turnloom.results.trouble import TroubleKind, trouble_of
from turnloom.results.verdict import judge
from turnloom.v1 import training_pb2 as pb

STEPS = 30
EVERY = 3
AXES = ["lora_rank", "learning_rate"]


def made(
    test: Callable[[int], float],
    rank: int = 8,
    rate: float = 1e-4,
    train: Callable[[int], float] | None = None,
    name: str = "",
    **job: object,
) -> Run:
    """A run of 30 steps, evaluated every third; weights of 4 a batch and 10 a test set."""
    steps = [pb.Step(step=0, attempt=1, test_nll_sum=10 * test(0), test_weight_sum=10, test_target_bytes=20)]
    for number in range(1, STEPS + 1):
        step = pb.Step(step=number, attempt=1, epoch=1, tokens=9, weight_sum=4, nll_sum=4 * (train or test)(number))
        if number % EVERY == 0:
            step.test_nll_sum, step.test_weight_sum, step.test_target_bytes = 10 * test(number), 10, 20
        steps.append(step)
    facts = {"state": pb.JOB_STATE_SUCCEEDED, **job}
    hyper = pb.Hyperparameters(lora_rank=rank, learning_rate=rate, batch_size=16)
    return Run(pb.Job(id=name or f"job-{rank}-{rate:g}", model="m", hyperparameters=hyper, **facts), steps)


def falling(to: float, speed: float = 0.2) -> Callable[[int], float]:
    return lambda step: to + (4 - to) * math.exp(-speed * step)


def said(runs: list[Run], axes: list[str] = AXES) -> str:
    return "\n".join(judge(runs, axes).sentences)


def test_the_best_cell_is_the_lowest_final_test_nll_and_the_next_is_named_with_its_distance() -> None:
    runs = [made(falling(2.0), 8), made(falling(1.0), 32), made(falling(0.9), 128)]
    verdict = judge(runs, ["lora_rank"])
    assert verdict.best == "job-128-0.0001"
    assert verdict.ties == ()
    assert verdict.sentences[0].startswith("Best: rank 128, test NLL 0.9077 after step 30 (4.0000 before training;")
    assert verdict.sentences[1].startswith("No other cell is within noise: the next, rank 32, is 0.0998 above")
    assert "Rank: 8 to 32 gains 0.9975, 32 to 128 gains 0.0998." in verdict.sentences
    assert "each step up gains less than half of the one before" in said(runs, ["lora_rank"])


def test_runs_that_only_their_ids_tell_apart_are_named_by_them_once() -> None:
    one, twin = made(falling(1.0), name="job-one"), made(falling(2.0), name="job-twin")
    axes = differing([one, twin])
    assert [label(axes, run.values(axes)) for run in (one, twin)] == ["job-one", "job-twin"]
    for runs in ([one, twin], [one]):
        best = judge(runs, differing(runs)).sentences[0]
        assert best.startswith("Best: job-one, test NLL ")
        assert best.endswith(" (4.0000 before training).")


def test_cells_whose_difference_jumps_more_than_it_measures_are_ties() -> None:
    smooth = made(falling(1.0), 8)
    shaky = made(lambda step: falling(1.01)(step) + (0.05 if step % 2 else -0.05), 32)
    verdict = judge([smooth, shaky], ["lora_rank"])
    assert {verdict.best, *verdict.ties} == {smooth.job.id, shaky.job.id}
    assert "Within noise of it:" in verdict.sentences[1]
    assert by_evaluations(smooth, shaky) == pytest.approx(0.05 * math.sqrt(16 / 6), rel=0.05)


@given(st.lists(st.floats(-1, 1), min_size=STEPS + 1, max_size=STEPS + 1), st.floats(-1, 1), st.floats(-0.1, 0.1))
def test_what_moves_two_cells_alike_or_in_a_straight_line_is_no_noise(
    common: list[float], offset: float, slope: float
) -> None:
    one = made(lambda step: 5 + common[step])
    other = made(lambda step: 5 + common[step] + offset + slope * step)
    measured = by_evaluations(one, other)
    assert measured == pytest.approx(0, abs=1e-9)


def test_fewer_than_three_evaluations_give_no_noise_and_say_so() -> None:
    runs = [Run(run.job, [step for step in run.steps if step.step in (0, 29, 30)]) for run in
            (made(falling(1.0), 8), made(falling(2.0), 32))]  # fmt: skip
    assert by_evaluations(*runs) is None
    assert "can't be said: these jobs have no record of what each test example lost, and without it that" in said(runs)
    assert "takes 3 evaluations at least; lower eval_every." in said(runs)


def test_divergence_is_named_with_its_step_and_brings_the_advice() -> None:
    runs = [made(falling(1.0), 8), made(lambda step: 4 if step < 12 else 4 + step, 32)]
    trouble = trouble_of(runs[1])
    assert trouble is not None
    assert (trouble.kind, trouble.step) == (TroubleKind.DIVERGED, 12)
    assert "Rank 32, rate 1e-4 diverged at step 12" in said(runs)
    assert (
        "lower the learning rate first, then the rank: rank 32, rate 1e-4 is unstable, rank 8, rate 1e-4 is not"
        " (test NLL 1.0074 at step 30)." in said(runs)
    )
    assert judge(runs, AXES).best == runs[0].job.id


def test_a_loss_that_is_not_finite_is_divergence_at_the_step_after_the_last() -> None:
    error = pb.Job(error={"code": "NON_FINITE_LOSS", "message": "The loss was NaN."}).error
    run = made(falling(1.0), state=pb.JOB_STATE_FAILED, error=error, progress=pb.Progress(step=7))
    assert trouble_of(run).step == 8
    assert judge([run], AXES).best == ""
    assert "rank 8, rate 1e-4 is FAILED at step 7: The loss was NaN." in said([run])


@pytest.mark.parametrize("at", [3, 15])
def test_a_rise_on_the_way_is_instability(at: int) -> None:
    run = made(lambda step: falling(1.0)(step) + (3 if at <= step < at + 6 else 0))
    trouble = trouble_of(run)
    assert (trouble.kind, trouble.step) == (TroubleKind.UNSTABLE, at)
    assert f"Rank 8, rate 1e-4 was unstable at step {at}: " in said([run])


def test_a_best_rate_at_the_end_of_the_grid_is_said_unless_it_is_unstable_there() -> None:
    good, best = made(falling(2.0)), made(falling(1.0), rate=1e-3)
    assert "largest of the grid: a larger one may be better still." in said([good, best])
    assert "smallest of the grid" in said([made(falling(1.0)), made(falling(2.0), rate=1e-3)])
    shaky = made(lambda step: falling(1.5)(step) + (3 if step == 3 else 0), 32, 1e-3)
    assert "and large enough: rank 32, rate 1e-3 is unstable at it." in said([good, best, shaky])


def test_the_advice_for_an_unstable_cell_names_the_next_lower_rate_of_the_grid_before_a_lower_rank() -> None:
    shaky = made(lambda step: falling(1.5)(step) + (3 if step == 3 else 0), 32, 1e-2)
    lower_rank, far, near = made(falling(1.0), 8, 1e-2), made(falling(2.0), 32, 1e-4), made(falling(1.2), 32, 1e-3)
    found = said([lower_rank, far, near, shaky])
    assert "rank 32, rate 1e-2 is unstable, rank 32, rate 1e-3 is not (test NLL 1.2069 at step 30)." in found
    assert "lower the learning rate first, then the rank." in said([shaky]), "nothing to compare with"
    assert "unstable" not in said([lower_rank, near])


def test_rank_says_what_each_step_up_gained_and_which_rank_is_enough_and_why() -> None:
    worse = [made(falling(1.0), 8), made(falling(1.1), 32), made(falling(1.2), 128)]
    assert "Rank at rate 1e-4: 8 to 32 loses 0.0998, 32 to 128 loses 0.0998." in said(worse)
    assert "Rank has diminishing returns here: 8 is enough, no higher one was better." in said(worse)
    jumpy = made(lambda step: falling(0.99)(step) + (0.05 if step % 2 else -0.05) - 0.05, 128)
    assert "8 is enough, no higher one is better by more than the noise." in said([made(falling(1.0), 8), jumpy])
    steady = [made(falling(3.0), 8), made(falling(2.0), 32), made(falling(1.0), 128)]
    assert "diminishing" not in said(steady)


def test_a_best_cell_that_still_improves_asks_for_more_steps_with_the_numbers() -> None:
    slow = made(lambda step: 4 - 0.05 * step)
    assert (
        "The best cell was still improving: its test NLL fell by 0.1500 between steps 27 and 30, at 100% of its"
        " mean pace. Try more steps before more rank." in said([slow])
    )
    assert "still improving" not in said([made(falling(1.0))])
    assert "still improving" not in said([made(lambda step: 4 - 0.05 * min(step, 27) + (step == 30))])


def halved(
    test: Callable[[int], float], rank: int, *, step: int = 0, place: int = 0, rate: float = 1e-4, until: int = STEPS
) -> Run:
    """A run of a halved sweep; with `step` it was stopped there as `place` of 4."""
    run = made(test, rank, rate)
    job = run.job
    job.halving.SetInParent()
    if step:
        job.state = pb.JOB_STATE_CANCELLED
        job.halving.MergeFrom(
            pb.Halving(compared_step=step, stopped=True, rank=place, compared=4, test_nll=test(step), reason="Stopped.")
        )
        until = step
    return run.until(until)


def test_cells_that_were_stopped_are_named_with_step_and_place_and_not_as_failures() -> None:
    runs = [
        halved(falling(3.0), 8, step=6, place=4),
        halved(falling(2.0), 16, step=6, place=3),
        halved(falling(1.5), 32, step=15, place=2),
        halved(falling(1.0), 64),
    ]
    verdict = judge(runs, ["lora_rank"])
    assert verdict.best == runs[3].job.id
    assert set(verdict.stopped) == {run.job.id for run in runs[:3]}
    text = "\n".join(verdict.sentences)
    assert (
        "Stopped by successive halving at step 6: rank 16 (test NLL 2.6024, place 3 of 4); rank 8 (test NLL 3.3012,"
        " place 4 of 4)." in text
    )
    assert "Stopped by successive halving at step 15: rank 32 (test NLL 1.6245, place 2 of 4)." in text
    assert "A stopped cell may have come closer later" in text
    assert "Not judged" not in text
    assert "At step 6, where all cells were compared, rank 64 was lowest (1.9036)." in verdict.sentences
    assert "At step 6: rank: 8 to 16 gains 0.6988, 16 to 32 gains 0.3494, 32 to 64 gains 0.3494." in verdict.sentences


def test_a_stopped_cell_whose_steps_have_expired_is_named_all_the_same() -> None:
    gone = halved(falling(3.0), 8, step=6, place=2)
    runs = [Run(gone.job, []), halved(falling(1.0), 32)]
    assert "Stopped by successive halving at step 6: rank 8 (test NLL" in said(runs, ["lora_rank"])


def test_a_sweep_that_is_not_halved_says_nothing_of_halving_and_a_waiting_cell_says_what_it_waits_for() -> None:
    runs = [made(falling(1.0), 8), made(falling(2.0), 32)]
    assert "halving" not in said(runs)
    waiting = halved(falling(1.0), 8, until=6)
    waiting.job.state, waiting.job.halving.waiting_step = pb.JOB_STATE_PAUSED, 6
    waiting.job.halving.reason = "Waits for the other cells of its sweep at step 6, where they are compared."
    waiting.job.progress.step = 6
    assert (
        "Not judged: rank 8, rate 1e-4 is PAUSED at step 6: Waits for the other cells of its sweep at step 6, where"
        in said([waiting])
    )


def test_a_cell_that_was_cancelled_after_a_rung_is_not_explained_by_having_passed_it() -> None:
    cancelled = halved(falling(1.0), 8, until=9)
    cancelled.job.state, cancelled.job.progress.step = pb.JOB_STATE_CANCELLED, 9
    cancelled.job.halving.compared_step, cancelled.job.halving.reason = 6, "Goes on after the comparison at step 6."
    assert "Not judged: rank 8, rate 1e-4 is CANCELLED at step 9." in judge([cancelled], AXES).sentences


def test_figures_draw_what_exists_of_stopped_cells(tmp_path: Path) -> None:
    runs = [halved(falling(3.0), 8, step=6, place=2), halved(falling(1.0), 32)]
    figure = figures._figure(runs, ["lora_rank"], test=True, title="")
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [3, 11]


def test_over_fitting_is_told_from_instability_by_the_train_nll() -> None:
    run = made(lambda step: falling(1.0)(step) + max(0, step - 12) * 0.1, train=falling(0.5))
    trouble = trouble_of(run)
    assert (trouble.kind, trouble.step) == (TroubleKind.OVERFITTED, 12)
    assert "take fewer steps (or the best checkpoint)" in said([run])
    assert "Rank 8, rate 1e-4 over-fitted after step 12: its test NLL was lowest at step 12 (1.2722) and is" in said(
        [run]
    )


def test_a_smooth_run_has_no_trouble_and_a_running_one_is_not_judged() -> None:
    assert trouble_of(made(falling(1.0))) is None
    running = made(lambda step: 4 + step, state=pb.JOB_STATE_RUNNING)
    assert trouble_of(running) is None
    assert "Not judged: rank 8, rate 1e-4 is RUNNING" in said([made(falling(1.0), 32), running])


def test_a_slow_rate_is_named_with_its_share() -> None:
    runs = [made(falling(3.5), 8, 1e-5), made(falling(1.0), 8, 1e-4), made(falling(1.2), 8, 1e-3)]
    assert "Rate 1e-5 is slow: in 30 steps it made 17% of the best cell's improvement." in said(runs)


def test_runs_are_told_apart_by_what_differs_and_by_job_where_nothing_does() -> None:
    assert differing([made(falling(1), 8, 1e-3), made(falling(1), 32, 1e-4)]) == AXES
    assert differing([made(falling(1), name="a"), made(falling(1), name="b")]) == ["job"]
    assert label(AXES, (8, 1e-4)) == "rank 8, rate 1e-4"
    assert [written(value) for value in (0.0002, 0.05, 3e-3, 128, 1.0)] == ["2e-4", "0.05", "3e-3", "128", "1"]


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_disk_that_fills_up_leaves_the_figures_of_an_earlier_export(
    tmp_path: Path, write: Callable[[Path, Sequence[dict[str, Cell]]], None]
) -> None:
    with small_disk(tmp_path, 1) as disk:
        if disk is None:
            pytest.skip("this user may not mount")
        path = tmp_path / "steps"
        path.write_text("earlier")
        disk.fill()
        with pytest.raises(OSError, match="No space left on device"):
            write(path, [{"job": "j", "step": number} for number in range(1000)])
        disk.empty()
        assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("steps", "earlier")]


def test_csv_and_parquet_hold_every_step_exactly(tmp_path: Path) -> None:
    runs = [made(falling(1.0), 8), made(falling(1.2), 32)]
    table = rows(runs, AXES)
    write_csv(tmp_path / "steps.csv", table)
    write_parquet(tmp_path / "steps.parquet", table)
    with (tmp_path / "steps.csv").open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(table) == 2 * (STEPS + 1)
    assert [float(row["train_nll"]) for row in read[1:31]] == [falling(1.0)(step) for step in range(1, 31)]
    assert read[0]["train_nll"] == ""
    assert float(read[0]["test_bits_per_byte"]) == pytest.approx(10 * 4.0 / math.log(2) / 20)
    assert pq.read_table(tmp_path / "steps.parquet").to_pylist() == table


def test_bits_per_byte_stand_beside_both_nlls_where_the_bytes_are_known() -> None:
    run = made(falling(1.0), 8)
    run.steps[3].target_bytes = 7
    table = rows([run])
    assert table[3]["train_bits_per_byte"] == pytest.approx(run.steps[3].nll_sum / math.log(2) / 7)
    assert table[0]["train_bits_per_byte"] is table[1]["train_bits_per_byte"] is None  # not trained; bytes unknown
    assert table[3]["test_bits_per_byte"] == bits_per_byte(10 * falling(1.0)(3), 20)


def test_figures_have_a_colour_per_rate_a_style_per_rank_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    runs = [made(falling(rank / 100 + rate), rank, rate) for rank in (8, 32, 128) for rate in (1e-5, 1e-4, 1e-3)]
    for name in ("one", "two"):
        drawn = figures.draw(tmp_path / name, "figure", runs, AXES, test=True, title="T")
    assert [path.name for path in drawn] == ["figure.png", "figure.svg"]
    assert (tmp_path / "one/figure.svg").read_bytes() == (tmp_path / "two/figure.svg").read_bytes()
    text = (tmp_path / "one/figure.svg").read_text()
    words = {node.text for node in ElementTree.fromstring(text).iter() if node.text and node.text.strip()}
    assert {"1e-5", "1e-4", "1e-3", "8", "32", "128", "learning rate", "lora rank", "optimizer step"} <= words
    lines = [style for style in text.split('style="')[1:] if "stroke-width: 1.6" in style.partition('"')[0]]
    pairs = {tuple(style.partition('"')[0].split("; ")) for style in lines}
    assert len(pairs) >= 9


def test_a_curve_that_explodes_does_not_flatten_the_others() -> None:
    runs = [made(falling(1.0), 8), made(lambda step: 4.0 * 3**step, 32)]
    figure = figures._figure(runs, ["lora_rank"], test=True, title="")
    low, high = figure.axes[0].get_ylim()
    assert high == pytest.approx(6.0)
    assert low < 1.1


def test_tensorboard_gets_every_step_with_the_time_of_the_ledger_and_a_second_export_replaces_the_first(
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboardX", reason="optional: pip install tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    from turnloom.results.tensorboard import write_events

    run = made(falling(1.0))
    for step in run.steps:
        step.time.FromSeconds(1_000_000 + step.step)
    write_events(tmp_path, run)
    (path,) = write_events(tmp_path, run)
    assert path.parent == tmp_path / run.job.id
    data, found = path.read_bytes(), []
    while data:  # records: length, its checksum, event, its checksum
        size = int.from_bytes(data[:8], "little")
        event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
        found += [(value.tag, event.step, value.simple_value, event.wall_time) for value in event.summary.value]
    train = [(step, nll, time) for tag, step, nll, time in found if tag == "nll/train"]
    assert train == [(k, pytest.approx(falling(1.0)(k), rel=1e-6), 1_000_000 + k) for k in range(1, STEPS + 1)]
    assert [step for tag, step, _, _ in found if tag == "nll/test"] == list(range(0, STEPS + 1, EVERY))
