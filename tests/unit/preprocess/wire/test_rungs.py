"""Rungs that nobody named: rules for any number of cells, steps and evaluations."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.preprocess.domain.refusals import InvalidRequest
from services.preprocess.wire.rungs import rungs
from services.store.records import Hyperparameters, Rung
from turnloom.v1 import training_pb2 as pb


def of(cells: int, steps: int, every: int, eta: int | None = None) -> tuple[Rung, ...]:
    request = pb.CreateSweepRequest(successive_halving=True, halving_eta=eta)
    return rungs(request, [Hyperparameters(eval_every=every)] * cells, [steps] * cells)


def test_the_guides_grid_is_halved_at_an_eighth_a_quarter_and_a_half_or_cut_to_thirds() -> None:
    assert of(9, 800, 50) == (Rung(100, 4), Rung(200, 2), Rung(400, 1))
    assert of(9, 300, 10, eta=3) == (Rung(40, 3), Rung(100, 1)), "33.3 is moved to the next evaluation"
    assert of(9, 30, 15) == (Rung(15, 1),), "rungs that fall together keep what the last of them keeps"


@given(st.integers(2, 100), st.integers(1, 5000), st.integers(1, 500), st.integers(2, 5))
def test_every_rung_is_evaluated_before_the_end_and_keeps_fewer_cells_than_the_one_before(
    cells: int, steps: int, every: int, eta: int
) -> None:
    none_fits = cells < eta or -(-steps // (eta * every)) * every >= steps
    if none_fits:
        with pytest.raises(InvalidRequest):
            of(cells, steps, every, eta)
        return
    found = of(cells, steps, every, eta)
    assert all(0 < rung.step < steps and rung.step % every == 0 for rung in found)
    assert [rung.step for rung in found] == sorted({rung.step for rung in found})
    left = [cells, *(rung.kept for rung in found)]
    assert all(1 <= after <= before // eta for before, after in itertools.pairwise(left))


def test_a_sweep_without_halving_has_no_rung() -> None:
    assert rungs(pb.CreateSweepRequest(), [Hyperparameters(eval_every=0)], [5]) == ()


def test_cells_without_an_evaluation_before_their_end_are_refused_with_what_to_give() -> None:
    with pytest.raises(InvalidRequest) as caught:
        of(4, 30, 50)
    (found,) = caught.value.violations
    assert found.field == "base.hyperparameters.eval_every"
    assert found.description.endswith("so that none could be stopped. Give 15 or less.")
