"""Which cells go on at a rung: rules, for any test NLLs and any order of arrival."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.store.records import Rung
from services.trainer.supervision.halving import Arrival, compare

NLLS = st.lists(st.floats(0.1, 10), min_size=1, max_size=12)


def arrivals(nlls: list[float]) -> list[Arrival]:
    return [Arrival(f"job-{place}", nll) for place, nll in enumerate(nlls)]


@given(NLLS, st.integers(1, 12))
def test_as_many_cells_go_on_as_the_rung_keeps_and_none_of_them_is_worse_than_one_that_is_stopped(
    nlls: list[float], kept: int
) -> None:
    found = compare(arrivals(nlls), (), Rung(10, kept))
    on = [one.test_nll for one in found if one.kept]
    stopped = [one.test_nll for one in found if not one.kept]
    assert len(on) == min(kept, len(nlls))
    assert not stopped or max(on) <= min(stopped)
    assert sorted(one.rank for one in found) == list(range(1, len(nlls) + 1))


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8, unique=True), st.integers(1, 8), st.randoms())
def test_the_order_of_the_cells_changes_nothing_where_no_two_are_equal(nlls: list[float], kept: int, random) -> None:
    cells = arrivals(nlls)
    shuffled = list(cells)
    random.shuffle(shuffled)
    by_job = {one.job: one for one in compare(shuffled, (), Rung(10, kept))}
    assert [by_job[one.job] for one in cells] == compare(cells, (), Rung(10, kept))


@given(NLLS, st.floats(0.1, 10), st.integers(1, 6))
def test_a_cell_that_comes_late_goes_on_if_it_would_have_been_among_the_kept(
    nlls: list[float], late: float, kept: int
) -> None:
    rung = Rung(10, kept)
    known = compare(arrivals(nlls), (), rung)
    (found,) = compare([Arrival("job-late", late)], known, rung)
    assert found.kept == (sum(nll <= late for nll in nlls) < kept)
    assert found.compared == len(nlls) + 1


def test_the_reason_names_step_rank_and_both_test_nlls() -> None:
    found = compare(arrivals([2.5, 1.9312, 1.2, 1.81]), (), Rung(40, 2))
    assert [one.reason for one in found] == [
        "Stopped by successive halving at step 40: rank 4 of 4, test NLL 2.5000; the 2 that go on have 1.8100 or less.",
        "Stopped by successive halving at step 40: rank 3 of 4, test NLL 1.9312; the 2 that go on have 1.8100 or less.",
        "Goes on after the comparison at step 40: rank 1 of 4, test NLL 1.2000.",
        "Goes on after the comparison at step 40: rank 2 of 4, test NLL 1.8100.",
    ]
    last = compare(arrivals([1.0, 2.0]), (), Rung(80, 1))[1]
    assert last.reason.endswith("rank 2 of 2, test NLL 2.0000; the one that goes on has 1.0000 or less.")
