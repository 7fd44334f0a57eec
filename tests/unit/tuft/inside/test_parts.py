"""The pieces of the accelerated model, each against plain torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from services.tuft import head, passes
from services.tuft.adapters import Accumulator, Layout
from services.tuft.attention import attend
from services.tuft.errors import Odd
from services.tuft.layers import Decoder
from services.tuft.packing import balanced, pack, read_rows
from tests.unit.tuft.inside import material
from tests.unit.tuft.inside.material import call, forget_gradients, gradients, logprobs, rows

seeds = st.integers(0, 2**31)


# -- packing -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=80), st.integers(1, 20_000))
def test_passes_hold_every_row_once_and_no_more_tokens_than_allowed(lengths: list[int], most: int) -> None:
    passes = balanced(lengths, most)
    assert sorted(number for members in passes for number in members) == list(range(len(lengths)))
    totals = [sum(lengths[number] for number in members) for members in passes]
    assert all(total <= most or len(members) == 1 for total, members in zip(totals, passes, strict=True))


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=80), st.integers(3000, 20_000))
def test_passes_are_few_and_about_equally_full(lengths: list[int], most: int) -> None:
    totals = [sum(lengths[number] for number in members) for members in balanced(lengths, most)]
    assert max(totals) - min(totals) <= max(lengths)
    assert len(totals) <= 2 * -(-sum(lengths) // most)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), seeds)
@settings(max_examples=30)
def test_packed_rows_begin_at_their_starts(lengths: list[int], seed: int) -> None:
    data = read_rows(rows(lengths, seed), material.VOCABULARY)
    order = list(range(len(lengths)))[::-1]
    packed = pack(data, order)
    for place, number in enumerate(order):
        begin, end = packed.starts[place : place + 2].tolist()
        assert torch.equal(packed.tokens[begin:end], data[number].tokens)
        assert torch.equal(packed.targets[begin:end], data[number].inputs["target_tokens"])
        assert packed.positions[begin:end].tolist() == list(range(lengths[number]))


@pytest.mark.parametrize(("field", "value"), [("model_input", 211), ("target_tokens", -1), ("target_tokens", 99_999)])
def test_a_token_that_the_model_does_not_have_is_named(field: str, value: int) -> None:
    data = rows((4, 6))
    if field == "model_input":
        data[1].model_input.chunks[0].tokens[2] = value
    else:
        data[1].loss_fn_inputs[field].to_numpy()[2] = value
    with pytest.raises(ValueError, match=f"datum 1: {field} holds {value}, but the model's vocabulary has 211 tokens"):
        read_rows(data, material.VOCABULARY)


# -- head --------------------------------------------------------------------------------------------------------------


def plain_logprobs(hidden, weight, a, b, targets, scale):
    logits = hidden @ weight.t() + (0 if a is None else hidden @ a.t() @ b.t())
    return torch.log_softmax(logits * scale, -1).gather(1, targets[:, None])[:, 0]


@given(seeds, st.integers(1, 40), st.booleans(), st.sampled_from([1.0, 0.5, 2.0]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_head_gives_what_log_softmax_gives(seed: int, count: int, lora: bool, scale: float, known: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    new = lambda *shape: torch.randn(shape, generator=draw)  # noqa: E731
    weight, targets, weights = new(50, 8), torch.randint(50, (count,), generator=draw), new(count)
    leaves = [new(count, 8)] + ([new(3, 8), new(50, 3)] if lora else [None, None])
    ends = []
    for ours in (True, False):
        hidden, a, b = (None if one is None else one.clone().requires_grad_() for one in leaves)
        linear = (weight, None, a, None if b is None else b.t())
        if not ours:
            found = plain_logprobs(hidden, weight, a, b, targets, scale)
            loss = -(found * weights).sum()
        elif known:
            loss, found = head.cross_entropy(hidden, linear, targets, weights, scale)
        else:
            found = head.target_logprobs(hidden, linear, targets, scale)
            loss = -(found * weights).sum()
        loss.backward()
        ends.append([found.detach(), loss.detach(), *(one.grad for one in (hidden, a, b) if one is not None)])
    for ours, plain in zip(*ends, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


def test_the_head_works_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = torch.randn(23, 8), torch.randn(50, 8), torch.randint(50, (23,))
    whole = head.target_logprobs(hidden, (weight, None, None, None), targets)
    monkeypatch.setattr(head, "CHUNK", 5)
    seen = []
    read = head.read_logits
    monkeypatch.setattr(head, "read_logits", lambda *args, **more: (seen.append(len(args[0])), read(*args, **more)))
    torch.testing.assert_close(head.target_logprobs(hidden, (weight, None, None, None), targets), whole)
    assert seen == [5, 5, 5, 5, 3]


@pytest.mark.skipif(not torch.cuda.is_available() and not os.environ.get("TRITON_INTERPRET"), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [7, 8192, 20_011])
def test_the_triton_kernel_gives_what_torch_gives(dtype: torch.dtype, size: int) -> None:
    from services.tuft import head_kernel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(size)
    logits, targets, factors = torch.randn(9, size).to(dtype) * 4, torch.randint(size, (9,)), torch.randn(9)
    for normalized in (False, True):
        ends = []
        for read, where in ((head.read_logits, "cpu"), (head_kernel.read_logits, device)):
            mine, logprobs = logits.clone().to(where), torch.zeros(9, device=where)
            normalizers = logits.float().logsumexp(-1).to(where)
            read(mine, targets.to(where), logprobs, normalizers, factors.to(where), normalized=normalized)
            ends.append((mine.cpu(), logprobs.cpu(), normalizers.cpu()))
        close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-2, "rtol": 1e-2}
        for plain, kernel in zip(*ends, strict=True):
            torch.testing.assert_close(kernel, plain, **close)


# -- attention ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), seeds)
@settings(max_examples=30, deadline=None)
def test_no_token_sees_another_row_or_its_own_future(lengths: list[int], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    query = torch.randn(total, 4, 8, generator=draw)
    key, value = (torch.randn(total, 2, 8, generator=draw) for _ in range(2))
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (row[:, None] == row[None]) & torch.ones(total, total, dtype=torch.bool).tril()
    dense = scaled_dot_product_attention(
        *(part.transpose(0, 1)[None] for part in (query, key, value)), attn_mask=mask, scale=0.3, enable_gqa=True
    )
    found = attend(query, key, value, starts, max(lengths), 0.3)
    torch.testing.assert_close(found, dense[0].transpose(0, 1), atol=1e-5, rtol=1e-5)


# -- adapters ----------------------------------------------------------------------------------------------------------


def test_hi_and_lo_keep_sixteen_bits_of_the_mantissa(folder: Path) -> None:
    _, fast = material.pair(folder, "qwen3", torch.bfloat16)
    layout = Layout.of(fast.causal_lm, "one")
    operands = layout.operands(torch.bfloat16, gradient=False)
    places = [place for place in layout.places if place.a is not None]
    linears = [one for one in operands.linears() if one[2] is not None]
    assert len(places) == len(linears) == 14
    for place, (_, _, a, b) in zip(places, linears, strict=True):
        for exact, operand in ((place.a, a), (place.b.t() * place.scaling, b)):
            hi, lo = (half[: len(exact)].double() for half in operand.chunk(2))
            assert operand.shape[0] == 64, "rank 4, filled up to 32, twice"
            assert float(((hi + lo - exact.double()) / exact.double()).detach().abs().max()) < 2.0**-15
            assert float(((hi - exact.double()) / exact.double()).detach().abs().max()) > 2.0**-11


def test_gradients_of_a_call_are_added_to_what_is_there() -> None:
    masters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))]
    masters[0].grad = torch.ones(2)
    total = Accumulator()
    total.add([torch.full((2,), 2.0), torch.full((3,), 3.0)])
    total.add([torch.full((2,), 4.0), torch.full((3,), 5.0)])
    assert masters[1].grad is None, "nothing before the call is whole"
    total.commit(masters)
    assert masters[0].grad.tolist() == [7.0, 7.0]
    assert masters[1].grad.tolist() == [8.0, 8.0, 8.0]


@pytest.mark.parametrize("how", [{"use_dora": True}, {"lora_dropout": 0.1}, {"lora_bias": True}], ids=str)
def test_an_adapter_that_is_not_plain_lora_is_odd(folder: Path, how: dict[str, object]) -> None:
    from peft import LoraConfig, get_peft_model

    model = material.CLASSES["llama"].from_pretrained(material.weights(folder, "llama"))
    peft = get_peft_model(model, LoraConfig(target_modules=["q_proj"], **how))
    with pytest.raises(Odd, match="an adapter that is not plain LoRA"):
        Layout.of(peft.base_model.model, "default")


def test_an_adapter_outside_the_known_layers_is_odd(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = material.CLASSES["qwen2"].from_pretrained(material.weights(folder, "qwen2"))
    peft = get_peft_model(model, LoraConfig(target_modules=["q_proj", "embed_tokens"]))
    with pytest.raises(Odd, match="an adapter on Embedding"):
        Layout.of(peft.base_model.model, "default")


# -- layers ------------------------------------------------------------------------------------------------------------


def test_recomputing_activations_changes_nothing(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = pair
    data = rows((30, 11))
    call(fast, data)
    expected = gradients(fast)
    forget_gradients(fast)
    start = passes.start
    monkeypatch.setattr(passes, "start", lambda *args, **how: start(*args, **{**how, "recompute": True}))
    call(fast, data)
    assert torch.equal(gradients(fast), expected)


def test_one_compilation_serves_every_length_and_every_adapter_up_to_rank_32(folder: Path, kind: str) -> None:
    _, fast = material.pair(folder, kind)
    material.add_adapter(fast, "two", 2, rank=11)
    plain = {}
    for name in ("one", "two"):
        plain[name] = (logprobs(call(fast, rows((9, 5)), name)), gradients(fast, name))
        forget_gradients(fast, name)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    fast._decoder = Decoder(fast.causal_lm, backend)
    for name in ("one", "two"):
        torch.testing.assert_close(logprobs(call(fast, rows((9, 5)), name)), plain[name][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradients(fast, name), plain[name][1], atol=1e-4, rtol=1e-4)
        forget_gradients(fast, name)
    for lengths in ((3, 4, 5), (31,), (2, 64, 7)):
        for name in ("one", "two"):
            call(fast, rows(lengths), name)
    assert len(graphs) == 2, "one before attention and one after it"
    for lengths in ((9, 5), (2, 64, 7)):
        call(fast, rows(lengths), backward=False)
    assert len(graphs) == 4, "the same without gradients"


# -- imports -----------------------------------------------------------------------------------------------------------


def test_the_keeper_needs_neither_torch_nor_ray() -> None:
    told = "import sys, services.tuft.launch_cpu; print([n for n in ('torch', 'ray', 'tuft') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
