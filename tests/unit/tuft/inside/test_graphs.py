"""Recorded passes: what is filled up, when a shape is recorded, and what happens when that goes wrong."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from services.tuft import graphs, memory
from services.tuft.graphs import GraphedDecoder, Inputs, Outputs, Recorded, Work
from tests.unit.tuft.inside import material
from tests.unit.tuft.inside.material import call, gradients, logprobs, parameters, rows

LENGTHS = (17, 3, 40, 1, 28, 9, 9)


class Recorder:
    """A graph as a CPU can have it: fixed memory in, fixed memory out, and nothing else that it looks at."""

    def __init__(self, *, wrong: float = 0.0, error: Exception | None = None) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.order: list[str] = []
        self.wrong, self.error = wrong, error

    def __call__(self, work: Work, inputs: Inputs, outputs: Outputs) -> Recorded:
        if self.error is not None:
            raise self.error
        self.shapes.append((len(inputs.tokens), len(inputs.starts)))

        def forward() -> None:
            self.order.append("forward")
            outputs.hidden.copy_(work(inputs).detach() * (1 + self.wrong))

        def backward() -> None:
            self.order.append("backward")
            with torch.enable_grad():
                found = torch.autograd.grad(work(inputs), inputs.stacks, outputs.by_hidden)
            for mine, one in zip(outputs.by_stacks, found, strict=True):
                mine.copy_(one)

        return Recorded(inputs, outputs, forward, backward)


def graphed(made: material.Model, **how: object) -> Recorder:
    """Let a model record its passes."""
    recorder = Recorder(**how)
    made._graphs = GraphedDecoder(made._decoder, 1, recorder)
    return recorder


def assert_same(pair: Sequence[material.Model], lengths: Sequence[int], seed: int = 0, name: str = "one") -> None:
    stock, fast = pair
    theirs, ours = (call(made, rows(lengths, seed), name) for made in (stock, fast))
    torch.testing.assert_close(logprobs(ours), logprobs(theirs), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients(fast, name), gradients(stock, name), atol=1e-3, rtol=1e-3)


def test_a_shape_is_recorded_at_its_second_pass_and_gives_the_same_ever_after(pair) -> None:
    _, fast = pair
    recorder = graphed(fast)
    recorded = []
    for seed in range(4):
        assert_same(pair, LENGTHS, seed)
        for made in pair:
            material.step(made)
        recorded.append(fast.status.graphs)
    assert recorded == [0, 1, 1, 1]
    assert fast.status.replayed == 3
    assert recorder.shapes == [(108, 17)]  # 107 tokens, filled up to a multiple of 4; 7 rows, to 16
    torch.testing.assert_close(parameters(fast, "one"), parameters(pair[0], "one"), atol=1e-3, rtol=1e-3)


def test_passes_of_nearby_sizes_share_a_graph_whatever_it_held_before(pair) -> None:
    _, fast = pair
    recorder = graphed(fast)
    for lengths in ((40, 30, 38), (40, 30, 38), (37, 35, 35), (108,), (50, 10, 10, 10, 26), (105,), (2, 104)):
        assert_same(pair, lengths)
    assert len(recorder.shapes) == 1
    assert fast.status.replayed == 6


def test_every_tenant_replays_with_its_own_adapter(pair) -> None:
    _, fast = pair
    for made in pair:
        material.add_adapter(made, "two", 2, rank=7)
    graphed(fast)
    for seed in range(3):
        for name in ("one", "two"):
            assert_same(pair, LENGTHS, seed, name)
    assert (fast.status.graphs, fast.status.replayed) == (1, 5)


def test_adapters_on_other_layers_get_graphs_of_their_own(folder) -> None:
    pair = material.pair(folder, "llama")  # its unembedding has an adapter as well, outside of the graph
    for made in pair:
        material.add_adapter(made, "two", 2, train_mlp=False)
    graphed(pair[1])
    for _ in range(3):
        for name in ("one", "two"):
            assert_same(pair, LENGTHS, name=name)
    assert (pair[1].status.graphs, pair[1].status.replayed) == (2, 4)


def test_several_passes_of_a_call_run_one_after_the_other(pair) -> None:
    _, fast = pair
    recorder = graphed(fast)
    fast.status.max_tokens_per_pass = 60
    for seed in range(3):
        assert_same(pair, LENGTHS, seed)
    del recorder.order[:2]  # the comparison
    assert recorder.order == ["forward", "backward"] * (len(recorder.order) // 2)
    assert fast.status.replayed >= 4


def test_evaluation_large_passes_and_recomputation_run_as_written(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = pair
    recorder = graphed(fast)
    for _ in range(3):
        call(fast, rows(LENGTHS), backward=False)
    monkeypatch.setattr(graphs, "WORK", 50)
    for _ in range(3):
        assert_same(pair, LENGTHS)
    assert recorder.shapes == []


def test_passes_before_a_recording_run_layer_by_layer(pair) -> None:
    _, fast = pair
    seen = []
    decoder = fast._decoder

    class Told:
        dtype = decoder.dtype

        def __call__(self, *given, recompute=False, **how):
            seen.append(recompute)
            return decoder(*given, recompute=recompute, **how)

    fast._decoder = Told()
    graphed(fast)
    for _ in range(2):
        assert_same(pair, LENGTHS)
    assert seen[:2] == [True, True]  # the first pass, and what the recording is compared with
    assert not any(seen[2:])


def test_the_shape_that_was_not_used_for_longest_goes(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = pair
    monkeypatch.setattr(graphs, "MOST", 2)
    recorder = graphed(fast)
    for length in (20, 20, 40, 40, 20, 80, 80, 20, 40):
        assert_same(pair, (length,))
    assert [tokens for tokens, _ in recorder.shapes] == [20, 40, 80, 40]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"wrong": 0.1}, "a graph differs from the pass as written"),
        ({"error": RuntimeError("operation not permitted when stream is capturing")}, "operation not permitted"),
        ({"error": torch.OutOfMemoryError("CUDA out of memory")}, "CUDA out of memory"),
    ],
    ids=["differs", "capture", "memory"],
)
def test_what_can_not_be_recorded_runs_as_written(pair, caplog: pytest.LogCaptureFixture, how, said: str) -> None:
    _, fast = pair
    graphed(fast, **how)
    for seed in range(4):
        assert_same(pair, LENGTHS, seed)
    assert (fast.status.graphs, fast.status.replayed) == (0, 0)
    assert fast.status.accelerated
    assert [said in one.message for one in caplog.records if "kernel by kernel" in one.message] == [True]


def test_memory_that_runs_out_takes_the_graphs_away(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    stock, fast = pair
    graphed(fast)
    released = []
    monkeypatch.setattr(memory, "release", lambda: released.append(len(fast._graphs._recorded)))
    for _ in range(2):
        assert_same(pair, LENGTHS)
    for made in pair:
        material.forget_gradients(made)
    theirs = call(stock, rows(LENGTHS))
    launch, left = torch.Tensor.backward, [torch.OutOfMemoryError("CUDA out of memory")]
    monkeypatch.setattr(torch.Tensor, "backward", lambda one: fail(left) or launch(one))
    ours = call(fast, rows(LENGTHS))
    assert not left
    torch.testing.assert_close(logprobs(ours), logprobs(theirs), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients(fast), gradients(stock), atol=1e-3, rtol=1e-3)
    call(fast, rows(LENGTHS))
    assert released[-1] == 0
    assert fast.status.replayed == 2
    assert fast.status.out_of_memory_splits == 1


def test_a_decoder_that_can_not_run_layer_by_layer_is_not_recorded(pair) -> None:
    _, fast = pair
    operands = fast._layout("one").operands(torch.float32, gradient=True)
    device = torch.device("cpu")
    assert graphs.recomputes(fast._decoder, operands, device)

    def broken(*_: object, recompute: bool = False, **__: object) -> Tensor:
        raise RuntimeError(f"recompute={recompute}")

    assert not graphs.recomputes(broken, operands, device)
    assert fast._graphed(1) is None, "nothing is recorded without a GPU"


def fail(left: list[Exception]) -> None:
    if left:
        raise left.pop()


@pytest.mark.parametrize(
    ("tokens", "rows_", "longest", "expected"),
    [
        (12_900, 32, 1_400, (13_312, 48, 2_048)),
        (13_312, 47, 2_049, (13_312, 48, 4_096)),
        (13_313, 48, 10, (13_824, 64, 2_048)),
        (1, 1, 1, (1, 16, 2_048)),
    ],
)
def test_shapes_come_in_steps(tokens: int, rows_: int, longest: int, expected: tuple[int, int, int]) -> None:
    class Operands:
        def signature(self) -> tuple[object, ...]:
            return ("x",)

    assert graphs.shape_of(tokens, rows_, longest, Operands()) == (*expected, ("x",))


def test_what_is_filled_up_is_less_than_a_sixteenth() -> None:
    class Operands:
        def signature(self) -> tuple[object, ...]:
            return ()

    for tokens in range(1, 40_000, 37):
        length = graphs.shape_of(tokens, 1, 1, Operands())[0]
        assert 0 <= length - tokens <= tokens / 16


def test_the_next_adapter_is_drawn_as_it_would_be_without_graphs(pair) -> None:
    _, fast = pair
    graphed(fast)
    torch.manual_seed(3)
    expected: Tensor = torch.rand(3)
    torch.manual_seed(3)
    for _ in range(3):
        call(fast, rows(LENGTHS))
    assert torch.equal(torch.rand(3), expected)
