"""Which cells are within noise, by what each test example lost: rules for any losses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from turnloom.results.noise import TIE, between, by_example
from turnloom.results.runs import Run
from turnloom.results.verdict import Verdict, judge
from turnloom.v1 import training_pb2 as pb
from turnloom.wire.evaluations import Evaluation

AXES = ["lora_rank"]
LAST = 30
#: Nats of an example by target, and its targets; sums in float32 as the record has them.
EXAMPLES = st.lists(st.tuples(st.floats(0.1, 8), st.integers(1, 10)), min_size=30, max_size=60)


def losses(nlls: Sequence[float], weights: Sequence[float], conversations: Sequence[int] | None = None) -> Evaluation:
    names = range(len(nlls)) if conversations is None else conversations
    return Evaluation(LAST, np.array(names, np.uint32), np.array(nlls, np.float32), np.array(weights, np.float32))


def run(found: Evaluation | None, rank: int = 8, final: float | None = None, dataset: str = "ds-1") -> Run:
    """A run of two evaluations whose last one is this record, or `final` without one."""
    if found is not None:
        final = float(found.nll_sum.sum(dtype=np.float64) / found.weight_sum.sum(dtype=np.float64))
    assert final is not None
    steps = [
        pb.Step(step=0, attempt=1, test_nll_sum=900, test_weight_sum=10),
        pb.Step(step=LAST, attempt=1, epoch=1, nll_sum=1, weight_sum=1, test_nll_sum=10 * final, test_weight_sum=10),
    ]
    job = pb.Job(
        id=f"job-{rank}",
        state=pb.JOB_STATE_SUCCEEDED,
        test_dataset=dataset,
        hyperparameters=pb.Hyperparameters(lora_rank=rank),
    )
    return Run(job, steps, {} if found is None else {LAST: found})


def sums(examples: Sequence[tuple[float, int]], more: float = 0.0) -> list[float]:
    """NLL sums; `more`: nats that every example loses beside."""
    return [nll * weight + more for nll, weight in examples]


def weights(examples: Sequence[tuple[float, int]]) -> list[float]:
    return [float(weight) for _, weight in examples]


@given(EXAMPLES)
def test_identical_cells_are_always_within_noise(examples: list[tuple[float, int]]) -> None:
    same = [run(losses(sums(examples), weights(examples)), rank) for rank in (8, 32, 128)]
    verdict = judge(same, AXES)
    assert verdict.best == "job-8", "of equal cells the cheapest"
    assert set(verdict.ties) == {"job-32", "job-128"}


@given(EXAMPLES, st.floats(0.5, 3))
def test_a_cell_that_is_worse_by_a_constant_on_every_example_is_not_within_noise(
    examples: list[tuple[float, int]], more: float
) -> None:
    best = run(losses(sums(examples), weights(examples)), 8)
    worse = run(losses(sums(examples, more), weights(examples)), 32)
    verdict = judge([best, worse], AXES)
    assert (verdict.best, verdict.ties) == ("job-8", ())


@given(EXAMPLES, st.integers(0, 2**32))
def test_neither_the_order_of_cells_nor_that_of_examples_changes_the_verdict(
    examples: list[tuple[float, int]], seed: int
) -> None:
    random = Random(seed)
    places = list(range(len(examples)))
    random.shuffle(places)
    cells = []
    for _ in range(4):
        shaken = [(max(0.05, nll + random.gauss(0, 0.3)), weight) for nll, weight in examples]
        cells.append(losses(sums(shaken), weights(shaken)))
    runs = [run(found, rank) for found, rank in zip(cells, (8, 16, 32, 64), strict=True)]
    mixed = [
        run(losses(one.nll_sum[places].tolist(), one.weight_sum[places].tolist(), places), rank)
        for one, rank in zip(cells, (8, 16, 32, 64), strict=True)
    ]
    random.shuffle(mixed)
    first, second = judge(runs, AXES), judge(mixed, AXES)
    nlls = sorted(one.test[-1][1] for one in runs)
    assume(all(after - before > 1e-6 for before, after in itertools.pairwise(nlls)))
    assert (first.best, first.ties) == (second.best, second.ties)


def test_the_standard_error_is_that_of_many_draws_of_the_test_set() -> None:
    draws = np.random.default_rng(0)
    size, repeats = 200, 4000
    hardness = draws.gamma(2.0, 1.0, 20_000)
    targets = draws.integers(1, 40, 20_000).astype(np.float64)
    first = hardness * targets + draws.normal(0, 1, 20_000)
    second = (hardness + 0.02) * targets + draws.normal(0, 1, 20_000)
    apart, errors = [], []
    for _ in range(repeats):
        chosen = draws.choice(20_000, size, replace=False)
        one, other = (losses(found[chosen].tolist(), targets[chosen].tolist()) for found in (first, second))
        apart.append(first[chosen].sum() / targets[chosen].sum() - second[chosen].sum() / targets[chosen].sum())
        if len(errors) < 200:
            errors.append(by_example(one, other).size)
    assert np.mean(errors) == pytest.approx(np.std(apart), rel=0.05)


def test_examples_of_one_conversation_are_one_observation() -> None:
    draws = np.random.default_rng(1)
    nlls, other = draws.gamma(2, 1, 50), draws.gamma(2, 1, 50)
    whole = by_example(losses(nlls.tolist(), [1.0] * 50), losses(other.tolist(), [1.0] * 50))
    twice = [place for place in range(50) for _ in range(2)]
    cut = by_example(
        losses(np.repeat(nlls, 2).tolist(), [1.0] * 100, twice),
        losses(np.repeat(other, 2).tolist(), [1.0] * 100, twice),
    )
    assert cut.size == pytest.approx(whole.size, rel=1e-6), "copies of an example tell nothing new"
    assert cut.conversations == 50


def test_a_difference_just_inside_twice_the_error_is_a_tie_and_one_just_outside_is_not() -> None:
    base = [1.0, 3.0] * 20
    for factor, tied in ((0.9, True), (1.1, False)):
        wobble = [0.1 if place % 4 < 2 else -0.1 for place in range(40)]
        error = 0.1 / math.sqrt(39)
        shifted = [nll + sign + factor * TIE * error for nll, sign in zip(base, wobble, strict=True)]
        one, other = run(losses(base, [1.0] * 40), 8), run(losses(shifted, [1.0] * 40), 32)
        assert between(one, other).size == pytest.approx(error, rel=1e-3)
        assert judge([one, other], AXES).ties == (("job-32",) if tied else ())


def said(verdict: Verdict) -> str:
    return "\n".join(verdict.sentences)


def test_the_verdict_says_over_how_many_conversations_and_that_few_are_rough() -> None:
    many, few = [2.0] * 40, [2.0] * 12
    for count, nlls in ((40, many), (12, few)):
        verdict = judge([run(losses(nlls, [1.0] * count), rank) for rank in (8, 32)], AXES)
        assert "Within noise of it: rank 32 (+0.0000, noise 0.0000)." in verdict.sentences
        assert f"the standard error of the difference over {count} test conversations, compared one by" in said(verdict)
        assert (f"With {count} conversations it is rough itself." in said(verdict)) == (count == 12)
        assert "What another seed of training would change is not in it, and may be more." in said(verdict)


def test_a_record_of_another_evaluation_or_another_dataset_is_not_used() -> None:
    found = losses([2.0] * 40, [1.0] * 40)
    assert between(run(found), run(found)).conversations == 40
    assert between(run(found), Run(run(found).job, run(found).steps, {20: found})) is None, "of step 20"
    assert between(run(found), run(found, dataset="ds-2")) is None
    wrong = Run(run(found).job, run(None, final=2.1).steps, {LAST: found})
    assert between(run(found), wrong) is None, "its sums are not those of the ledger"


def test_jobs_without_the_record_say_so() -> None:
    verdict = judge([run(None, 8, 2.0), run(None, 32, 2.1)], AXES)
    assert "can't be said: these jobs have no record of what each test example lost" in said(verdict)
    assert verdict.ties == ()


def test_a_cell_that_was_stopped_within_noise_of_the_lowest_one_is_named() -> None:
    base, rung = [1.0, 3.0] * 20, 6
    cells = []
    for rank, more in ((8, 0.0), (32, 0.001), (64, 1.0)):
        wobble = [more + (0.1 if place % 4 < 2 else -0.1) * (rank > 8) for place in range(40)]
        found = losses([nll + one for nll, one in zip(base, wobble, strict=True)], [1.0] * 40)
        made = run(found, rank)
        made.steps[1].step = rung
        if rank > 8:
            made.job.state = pb.JOB_STATE_CANCELLED
            stop = pb.Halving(compared_step=rung, stopped=True, rank=2, compared=3, test_nll=made.test[-1][1])
            made.job.halving.MergeFrom(stop)
        cells.append(Run(made.job, made.steps, {rung: found}))
    last = pb.Step(step=LAST, attempt=1, nll_sum=1, weight_sum=1, test_nll_sum=9, test_weight_sum=10)
    best = Run(cells[0].job, [*cells[0].steps, last], cells[0].losses)
    assert "Stopped although within noise of the lowest cell at that step: rank 32." in said(
        judge([best, *cells[1:]], AXES)
    )


def test_jobs_that_were_tested_on_different_datasets_are_not_ranked_and_the_reason_names_them() -> None:
    runs = [run(None, 8, 1.0, "ds-1"), run(None, 16, 0.5, "ds-2"), run(None, 32, 0.7, "ds-1")]
    verdict = judge(runs, AXES)
    assert (verdict.best, verdict.ties) == ("", ())
    assert verdict.sentences[0] == (
        "Not ranked: these jobs were tested on different test datasets, whose NLLs can't be compared: "
        "ds-1: job-8, job-32; ds-2: job-16."
    )


def test_two_datasets_of_the_same_rows_are_one() -> None:
    same = {"ds-1": "abc", "ds-2": "abc"}
    runs = [replace(run(None, 8, 1.0, "ds-1"), contents=same), replace(run(None, 16, 0.5, "ds-2"), contents=same)]
    assert judge(runs, AXES).best == "job-16"


def test_jobs_that_were_trained_on_different_data_are_ranked_and_it_is_said() -> None:
    one, other = run(None, 8, 1.0), run(None, 16, 0.5)
    one.job.training_dataset, other.job.training_dataset = "ds-a", "ds-b"
    verdict = judge([one, other], AXES)
    assert verdict.best == "job-16"
    (said,) = [sentence for sentence in verdict.sentences if "trained on different data" in sentence]
    assert said.endswith("ds-a: job-8; ds-b: job-16.")
