"""How steps and evaluations are cut for a server that packs rows end to end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.store.records import Hyperparameters, ServedModelRecord, WeightNormalization
from services.trainer.backend import Logprobs
from services.trainer.batches.batching import SAFE_CALL_TOKENS, call_tokens, cut, longest_first, packed
from services.trainer.batches.rows import Row
from services.trainer.batches.weighting import NORMALIZATION, Weights
from services.trainer.errors import Code, backend_error
from services.trainer.evaluation import evaluate
from services.trainer.host.readiness import accelerated_event
from services.trainer.tuft_http import NOT_OURS, _acceleration
from tests.support.trainer_parts import MemoryJournal, conversations, plan, row, run

lengths = st.lists(st.integers(2, 60), min_size=1, max_size=80)
packs = st.booleans()


def rows_of(sizes: Sequence[int]) -> list[Row]:
    return longest_first([row(n, range(size), [1.0] * (size - 1)) for n, size in enumerate(sizes)])


@given(lengths=lengths, budget=st.integers(1, 400), packs=packs)
def test_a_cut_loses_and_repeats_no_row(lengths: list[int], budget: int, packs: bool) -> None:
    rows = rows_of(lengths)
    assert sorted(place for call in cut(rows, budget, packs=packs) for place in call) == list(range(len(rows)))


@given(lengths=lengths, budget=st.integers(1, 400))
def test_packed_calls_keep_within_the_budget_of_real_tokens(lengths: list[int], budget: int) -> None:
    rows = rows_of(lengths)
    for call in packed(rows, budget):
        assert len(call) == 1 or sum(rows[place].length - 1 for place in call) <= budget


@given(lengths=lengths, budget=st.integers(1, 400))
def test_no_two_packed_calls_would_fit_into_one(lengths: list[int], budget: int) -> None:
    rows = rows_of(lengths)
    sizes = sorted(sum(rows[place].length - 1 for place in call) for call in packed(rows, budget))
    assert all(smaller + larger > budget for smaller, larger in pairwise(sizes))


@given(lengths=lengths)
def test_a_step_that_fits_is_one_call(lengths: list[int]) -> None:
    rows = rows_of(lengths)
    assert len(packed(rows, sum(size - 1 for size in lengths))) == 1


@given(
    lengths=lengths,
    budget=st.integers(1, 400),
    packs=packs,
    weights=st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=80, max_size=80),
    kind=st.sampled_from(WeightNormalization),
)
def test_calls_carry_the_weights_of_the_whole_step(
    lengths: list[int], budget: int, packs: bool, weights: list[float], kind: WeightNormalization
) -> None:
    rows = longest_first([row(n, range(size), [weights[n] or 1.0] * (size - 1)) for n, size in enumerate(lengths)])
    server = Counting()
    made = plan(
        Hyperparameters(max_steps=1, batch_size=len(rows), weight_normalization=kind, max_tokens_per_call=budget),
        train=rows, ceiling=budget, packs=packs,
    )  # fmt: skip
    run(made, server, MemoryJournal()).train(0, save_first=False, untested=None)
    sent = {one.conversation: given for one, given in server.sent}
    assert len(server.sent) == len(sent) == len(rows)
    expected = NORMALIZATION[kind](made.batches.batch(1).rows)
    for one, whole in zip(made.batches.batch(1).rows, expected, strict=True):
        np.testing.assert_array_equal(sent[one.conversation], whole)


class Done:
    """An operation that is over."""

    def __init__(self, value: object) -> None:
        self._value = value

    def result(self) -> object:
        return self._value


class Counting:
    """A backend that remembers what it was sent; each logprob is -1 / (1 + conversation)."""

    run_id = "run"

    def __init__(self) -> None:
        self.sent: list[tuple[Row, Weights]] = []
        self.forwards: list[int] = []  # real targets of each forward call

    def forward_backward(self, rows: Sequence[Row], weights: Sequence[Weights]) -> Done:
        self.sent += zip(rows, weights, strict=True)
        return Done(self._logprobs(rows))

    def forward(self, rows: Sequence[Row]) -> Done:
        self.forwards.append(sum(one.length - 1 for one in rows))
        return Done(self._logprobs(rows))

    def _logprobs(self, rows: Sequence[Row]) -> list[Logprobs]:
        return [np.full(one.length - 1, -1 / (1 + one.conversation), np.float32) for one in rows]

    def optim_step(self, _adam: object) -> Done:
        return Done(None)

    def save_state(self, name: str) -> Done:
        return Done(f"tinker://run/weights/{name}")

    def check_alive(self) -> None:
        return None


@given(count=st.integers(1, 40), budget=st.integers(10, 300), seed=st.integers(0, 3))
def test_an_evaluation_is_the_same_however_it_is_cut(count: int, budget: int, seed: int) -> None:
    rows = conversations(count, seed)
    padded, packing = Counting(), Counting()
    whole = evaluate(padded, rows, budget)  # type: ignore[arg-type]  # as much of a backend as is asked
    again = evaluate(packing, rows, budget, packs=True)  # type: ignore[arg-type]
    assert whole is not None
    assert again is not None
    assert (again.nll_sum, again.weight_sum, again.target_bytes) == (
        whole.nll_sum, whole.weight_sum, whole.target_bytes,
    )  # fmt: skip
    np.testing.assert_array_equal(again.losses.nll_sum, whole.losses.nll_sum)
    np.testing.assert_array_equal(again.losses.conversation, [one.conversation for one in rows])
    assert len(packing.forwards) <= len(padded.forwards)
    assert sum(packing.forwards) == sum(one.length - 1 for one in rows)


def test_packed_calls_grow_to_their_ceiling_in_a_few_steps() -> None:
    assert [call_tokens(step, 32_768, packs=True) for step in range(1, 9)] == [
        SAFE_CALL_TOKENS, SAFE_CALL_TOKENS, 8_192, 8_192, 16_384, 16_384, 32_768, 32_768,
    ]  # fmt: skip
    assert call_tokens(10**6, 32_768, packs=True) == 32_768
    assert call_tokens(1, 1_000, packs=True) == 1_000


def test_a_step_record_tells_its_calls_and_who_trained_it() -> None:
    rows = rows_of([21] * 8)
    for packs, expected in ((False, 4), (True, 2)):
        journal = MemoryJournal()
        budget = 80 if packs else 40
        made = plan(Hyperparameters(max_steps=1, batch_size=8), train=rows, ceiling=budget, packs=packs)
        run(made, Counting(), journal).train(0, save_first=False, untested=None)  # type: ignore[arg-type]
        assert (journal.steps[0].calls, journal.steps[0].accelerated) == (expected, packs)
        assert all(one.packed is packs for one in journal.checkpoints)


def test_running_out_of_memory_names_the_tokens_that_were_counted() -> None:
    class Full(Counting):
        def forward_backward(self, rows: Sequence[Row], weights: Sequence[Weights]) -> Done:
            raise backend_error(Code.OUT_OF_MEMORY, "CUDA out of memory")

    made = plan(Hyperparameters(max_steps=1, batch_size=8), train=rows_of([21] * 8), ceiling=80, packs=True)
    with pytest.raises(Exception, match="step 0, calls of at most 80 tokens: CUDA out of memory") as full:
        run(made, Full(), MemoryJournal()).train(0, save_first=False, untested=None)  # type: ignore[arg-type]
    assert full.value.packed  # type: ignore[attr-defined]


def test_an_attempt_says_how_it_is_trained_and_why_not_faster() -> None:
    fast = ServedModelRecord("m", accelerated=True, max_tokens_per_pass=4096)
    assert accelerated_event(fast)[1:] == (
        "ACCELERATED",
        "The server trains m accelerated and packs rows: calls count real tokens, up to 4096 a pass.",
    )
    slow = ServedModelRecord("m", accelerated=False, not_accelerated="there is no CUDA GPU")
    assert accelerated_event(slow)[1] == "NOT_ACCELERATED"
    assert accelerated_event(slow)[2].endswith("there is no CUDA GPU.")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (NOT_OURS, (False, 0, NOT_OURS)),  # a stock TuFT
        ("the server answered 500", (None, 0, "the server answered 500")),  # which may pass
        ({}, (False, 0, "its server says nothing of it")),
        ({"m": {"state": "starting"}}, (None, 0, "the model is still loading")),
        ({"m": {"state": "ready", "accelerated": True, "max_tokens_per_pass": 64}}, (True, 64, "")),
        ({"m": {"state": "ready", "accelerated": True}}, (False, 0, "its server gives no reason")),
        (
            {
                "m": {
                    "state": "ready",
                    "accelerated": False,
                    "max_tokens_per_pass": 64,
                    "reason": "self-test failed",
                }
            },
            (False, 0, "self-test failed"),
        ),
    ],
)
def test_only_a_server_that_says_so_and_up_to_how_many_tokens_is_taken_for_accelerated(
    found: dict[str, dict[str, object]] | str, expected: tuple[bool | None, int, str]
) -> None:
    fields = _acceleration(found, "m")
    assert (fields["accelerated"], fields["max_tokens_per_pass"], fields["not_accelerated"]) == expected
