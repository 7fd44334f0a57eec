"""The accelerated model beside TuFT's own on the same requests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from tinker import types
from tuft.backends.hf_training_model import HFTrainingModel
from tuft.checkpoints import CheckpointRecord

from services.tuft.model import AcceleratedModel
from tests.unit.tuft.inside import material
from tests.unit.tuft.inside.material import call, forget_gradients, gradients, logprobs, parameters, rows, step

LENGTHS = (17, 3, 40, 1, 28, 9, 9)


def assert_same(stock, fast, data, *, close=1e-5, **how):
    theirs, ours = call(stock, data, **how), call(fast, data, **how)
    torch.testing.assert_close(logprobs(ours), logprobs(theirs), atol=1e-4, rtol=1e-4)
    assert ours.metrics == pytest.approx(theirs.metrics, rel=close, abs=1e-5)
    assert [len(one["logprobs"].data) for one in ours.loss_fn_outputs] == [datum.model_input.length for datum in data]
    expected, found = gradients(stock), gradients(fast)
    assert float((expected - found).norm() / expected.norm()) < close


def test_every_architecture_gives_the_same_losses_and_gradients(folder: Path, kind: str) -> None:
    stock, fast = material.pair(folder, kind)
    assert_same(stock, fast, rows(LENGTHS))
    assert fast.status.calls == {"accelerated": 1, "stock": 0}
    assert fast.status.tokens == sum(LENGTHS)


@pytest.mark.parametrize(
    "flags",
    [
        {"train_mlp": False},
        {"train_attn": False},
        {"train_unembed": False},
        {"train_mlp": False, "train_attn": False},  # Llama's unembedding alone
    ],
    ids=str,
)
def test_what_an_adapter_leaves_alone_stays_out(folder: Path, flags: dict[str, bool]) -> None:
    stock, fast = material.pair(folder, "llama", **flags)
    assert_same(stock, fast, rows(LENGTHS))
    assert not fast.status.fallbacks


@pytest.mark.parametrize("rank", [1, 3, 32])
def test_any_rank(pair, rank: int) -> None:
    stock, fast = pair
    for made in pair:
        material.add_adapter(made, "other", 5, rank=rank)
    theirs, ours = (call(made, rows(LENGTHS), "other") for made in (stock, fast))
    torch.testing.assert_close(logprobs(ours), logprobs(theirs), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients(fast, "other"), gradients(stock, "other"), atol=1e-3, rtol=1e-3)


RL = {"advantages": "normal", "logprobs": "normal"}


@pytest.mark.parametrize(
    ("loss", "config", "lengths", "inputs"),
    [
        ("cross_entropy", {"temperature": 0.7}, LENGTHS, {}),
        ("importance_sampling", {}, LENGTHS, RL),
        ("importance_sampling", {"temperature": 1.3}, LENGTHS, RL),
        ("ppo", {"clip_low_threshold": 0.8}, LENGTHS, RL),
        ("cispo", {}, LENGTHS, RL),
        ("dro", {"beta": 0.05}, (12, 12, 12), RL),
        ("trinity_ppo", {"num_total_datums": 16.0, "kl_coef": 0.0}, LENGTHS, RL),
        ("trinity_ppo", {"num_total_datums": 16.0, "kl_coef": 0.1}, LENGTHS, {**RL, "ref_logprobs": "normal"}),
    ],
)
def test_every_loss_of_tuft(pair, loss: str, config: dict[str, float], lengths, inputs) -> None:
    stock, fast = pair
    data = rows(lengths, **inputs)
    if loss != "cross_entropy":  # old log-probabilities near the present ones, or every ratio is clipped
        now = call(stock, data, backward=False)
        for datum, one in zip(data, now.loss_fn_outputs, strict=True):
            noise = datum.loss_fn_inputs["logprobs"].to_torch() * 0.1
            datum.loss_fn_inputs["logprobs"] = types.TensorData.from_torch(one["logprobs"].to_torch() + noise)
            if "ref_logprobs" in inputs:
                datum.loss_fn_inputs["ref_logprobs"] = types.TensorData.from_torch(one["logprobs"].to_torch() - noise)
    assert_same(stock, fast, data, loss=loss, config=config, close=1e-4)
    assert fast.status.calls["accelerated"] == 1


def test_a_llama_head_with_an_adapter_learns_from_any_loss(folder: Path) -> None:
    stock, fast = material.pair(folder, "llama")
    assert_same(stock, fast, rows(LENGTHS, **RL), loss="importance_sampling", close=1e-4)


def test_evaluation_leaves_no_gradient(pair) -> None:
    stock, fast = pair
    theirs, ours = (call(made, rows(LENGTHS), backward=False) for made in (stock, fast))
    torch.testing.assert_close(logprobs(ours), logprobs(theirs), atol=1e-4, rtol=1e-4)
    assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-5)
    assert all(one.grad is None for one in parameters(fast, "one"))


def test_rows_without_any_weight_give_zero_gradients_as_with_tuft(pair) -> None:
    data = rows((5, 8))
    for datum in data:
        datum.loss_fn_inputs["weights"] = types.TensorData.from_torch(torch.zeros(datum.model_input.length))
    for made in pair:
        call(made, data)
        assert float(gradients(made).abs().max()) == 0.0


def test_calls_add_up_and_steps_are_adams_own(pair) -> None:
    stock, fast = pair
    for number in range(5):
        for made in pair:
            call(made, rows(LENGTHS, seed=number))
            call(made, rows((30, 4), seed=100 + number))
        expected, found = gradients(stock), gradients(fast)
        assert float((expected - found).norm() / expected.norm()) < 1e-4
        for made in pair:
            step(made)
    for theirs, ours in zip(parameters(stock, "one"), parameters(fast, "one"), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


def test_many_passes_give_what_one_gives(pair) -> None:
    _, fast = pair
    data = rows(LENGTHS)
    whole = call(fast, data)
    expected = gradients(fast)
    forget_gradients(fast)
    fast.status.max_tokens_per_pass = 40
    fast.status.forget_counters()
    cut = call(fast, data)
    assert fast.status.passes >= 3
    torch.testing.assert_close(logprobs(cut), logprobs(whole), atol=1e-5, rtol=1e-5)
    assert float((expected - gradients(fast)).norm() / expected.norm()) < 1e-5


def test_tenants_by_turns_end_where_each_ends_alone(folder: Path) -> None:
    path = material.weights(folder, "qwen3")
    ends = {}
    for names in (("one",), ("two",), ("one", "two")):
        made = material.model(AcceleratedModel, path)
        for name in names:
            material.add_adapter(made, name, seed=len(name) + ord(name[0]), rank=4 if name == "one" else 7)
        for number in range(3):
            for name in names:
                others = [one.clone() for other in names if other != name for one in parameters(made, other)]
                call(made, rows(LENGTHS, seed=number), name)
                step(made, name)
                after = [one for other in names if other != name for one in parameters(made, other)]
                assert all(torch.equal(a, b) for a, b in zip(others, after, strict=True))
        ends[names] = {name: [one.clone() for one in parameters(made, name)] for name in names}
    for name in ("one", "two"):
        together, alone = ends["one", "two"][name], ends[(name,)][name]
        assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("saver", [0, 1])
def test_checkpoints_of_both_load_in_each_other(pair, tmp_path: Path, saver: int) -> None:
    writer, reader = pair[saver], pair[1 - saver]
    for number in range(3):
        call(writer, rows(LENGTHS, seed=number))
        step(writer)
    record = CheckpointRecord.from_training_run("run", "c", "user", "training", tmp_path, exist_ok=True)
    asyncio.run(writer.save_state("one", record, optimizer=True))
    asyncio.run(reader.load_state("one", record, optimizer=True))
    for made in pair:
        call(made, rows(LENGTHS, seed=9))
        step(made)
    for theirs, ours in zip(parameters(writer, "one"), parameters(reader, "one"), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_a_run_over_twenty_steps_in_bf16_stays_within_a_thousandth_of_stock(folder: Path) -> None:
    stock, fast = material.pair(folder, "qwen3", torch.bfloat16)
    furthest = 0.0
    for number in range(20):
        theirs, ours = (call(made, rows(LENGTHS, seed=number)).metrics["loss:sum"] for made in (stock, fast))
        furthest = max(furthest, abs(ours / theirs - 1))
        for made in (stock, fast):
            step(made, rate=1e-4)
    # a model of 2 layers whose logits are bf16, 95 trained tokens: the noise of one step is larger than at 14,000
    assert furthest < 3e-3


def test_the_same_requests_give_the_same_bits(folder: Path) -> None:
    ends = []
    for _ in range(2):
        _, fast = material.pair(folder, "qwen2")
        for number in range(3):
            call(fast, rows(LENGTHS, seed=number))
            step(fast)
        ends.append([one.clone() for one in parameters(fast, "one")])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_self_test_leaves_adapters_as_tuft_would_make_them(folder: Path) -> None:
    path = material.weights(folder, "qwen3")
    made = []
    for cls in (HFTrainingModel, AcceleratedModel):
        model = material.model(cls, path)
        torch.manual_seed(3)
        asyncio.run(model.create_adapter("a", types.LoraConfig(rank=4)))
        made.append([one.clone() for one in parameters(model, "a")])
        assert not hasattr(model, "status") or list(model.adapter_optimizer) == ["a"]
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))
