"""Whatever is in doubt is served by TuFT's own code, and out of memory is answered inside the server."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
import tuft
from tinker import types
from tuft.backends import fsdp_training_backend
from tuft.backends import hf_training_model as stock_module
from tuft.config import ModelConfig

from services.tuft import checks, fsdp, hook, memory, model, passes, self_test, status
from services.tuft.layers import Decoder
from services.tuft.model import AcceleratedModel
from tests.unit.tuft.inside import material
from tests.unit.tuft.inside.material import call, gradients, logprobs, parameters, rows

LENGTHS = (17, 3, 40, 1, 28, 9, 9)


# -- requests ----------------------------------------------------------------------------------------------------------


def without(data, name):
    for datum in data:
        del datum.loss_fn_inputs[name]
    return data


def shorter_weights(data):
    short = data[0].loss_fn_inputs["weights"].to_torch()[:-1].clone()
    data[0].loss_fn_inputs["weights"] = types.TensorData.from_torch(short)
    return data


RL = {"advantages": "normal", "logprobs": "normal"}


@pytest.mark.parametrize(
    ("data", "loss", "config", "reason"),
    [
        (shorter_weights(rows((5, 5))), "cross_entropy", {}, "loss inputs that don't have one value a token"),
        (rows((5, 9), **RL), "dro", {}, "dro over rows of several lengths, whose padding TuFT counts"),
        (rows((5, 9)), "cross_entropy", {"temperature": -1.0}, "a temperature that is not above 0"),
    ],
)
def test_odd_requests_get_tufts_own_answer(pair, data, loss, config, reason) -> None:
    stock, fast = pair
    theirs, ours = (call(made, data, loss=loss, config=config) for made in (stock, fast))
    assert torch.equal(logprobs(theirs), logprobs(ours))
    assert theirs.metrics == ours.metrics
    assert torch.equal(gradients(stock), gradients(fast))
    assert fast.status.fallbacks == {reason: 1}
    assert fast.status.accelerated


@pytest.mark.parametrize(
    ("data", "name", "loss"),
    [
        (rows((4,)), "nobody", "cross_entropy"),
        (rows((4,)), "one", "no_such_loss"),
        (without(rows((4,)), "target_tokens"), "one", "cross_entropy"),
        (without(rows((4,)), "weights"), "one", "cross_entropy"),
        (rows((4,)), "one", "ppo"),
        (rows((4, 5), **RL), "one", "trinity_ppo"),
    ],
)
def test_wrong_requests_get_tufts_own_error(pair, data, name: str, loss: str) -> None:
    said = []
    for made in pair:
        with pytest.raises(Exception) as caught:  # noqa: PT011  (compared below)
            call(made, data, name, loss)
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]
    assert pair[1].status.accelerated


def test_a_token_outside_of_the_vocabulary_is_the_clients_mistake_alone(pair) -> None:
    _, fast = pair
    data = rows((4, 5))
    data[1].model_input.chunks[0].tokens[0] = 99_999
    with pytest.raises(ValueError, match="datum 1: model_input holds 99999"):
        call(fast, data)
    assert fast.status.accelerated
    assert fast.status.calls == {"accelerated": 0, "stock": 0}


def test_an_empty_request_is_answered_as_tuft_does(pair) -> None:
    stock, fast = pair
    assert call(stock, []) == call(fast, [])


# -- memory ------------------------------------------------------------------------------------------------------------


class Small:
    """A decoder on a card that takes so many tokens, and fewer without recomputation."""

    def __init__(self, decoder: Decoder, most: int, alone: int = 10**9, error: RuntimeError | None = None) -> None:
        self.decoder, self.most, self.alone, self.passes = decoder, most, alone, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")

    @property
    def dtype(self):
        return self.decoder.dtype

    def __call__(self, tokens, *args, recompute=False, **how):
        self.passes.append(len(tokens))
        if len(tokens) > (self.alone if recompute else self.most):
            raise self.error
        return self.decoder(tokens, *args, recompute=recompute, **how)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=["allocator", "cublas", "triton"],
)
def test_a_pass_that_does_not_fit_is_cut_and_the_client_hears_nothing(pair, error: RuntimeError) -> None:
    stock, fast = pair
    fast._decoder = small = Small(fast._decoder, most=45, error=error)
    theirs, ours = (call(made, rows(LENGTHS)) for made in (stock, fast))
    torch.testing.assert_close(logprobs(ours), logprobs(theirs), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients(fast), gradients(stock), atol=1e-3, rtol=1e-3)
    assert small.passes[0] == sum(LENGTHS)
    assert fast.status.out_of_memory_splits >= 1
    assert fast.status.max_tokens_per_pass == memory.SMALLEST
    assert fast.status.fallbacks == {}


def test_answers_are_read_behind_every_forward_pass_and_before_the_backward_ones_are_done(
    pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    class Told(passes.Reading):
        def __init__(self, values: torch.Tensor) -> None:
            order.append("copied")
            super().__init__(values)

        def result(self) -> torch.Tensor:
            order.append("waited")
            return super().result()

    backward = torch.Tensor.backward
    monkeypatch.setattr(passes, "Reading", Told)
    monkeypatch.setattr(torch.Tensor, "backward", lambda one: order.append("backward") or backward(one))
    _, fast = pair
    fast.status.max_tokens_per_pass = 60
    call(fast, rows(LENGTHS))
    assert order == ["copied", "backward"] * 2 + ["waited"] * 4  # log-probabilities and loss of each pass


def fail_late(monkeypatch: pytest.MonkeyPatch, times: int, error: Exception) -> None:
    """Let backward passes fail so many times, after the answer."""
    left, launch = [error] * times, torch.Tensor.backward

    def backward(one: torch.Tensor) -> None:
        if left:
            raise left.pop()
        launch(one)

    monkeypatch.setattr(torch.Tensor, "backward", backward)


@pytest.mark.parametrize("most", [60, 8192])
@pytest.mark.parametrize("idle", [True, False])
def test_what_is_launched_after_the_answer_adds_the_same_gradients(pair, monkeypatch, most: int, idle: bool) -> None:
    stock, fast = pair
    monkeypatch.setattr(memory, "idle", lambda device: idle)
    fast.status.max_tokens_per_pass = most
    for seed in range(3):
        theirs, ours = call(stock, rows(LENGTHS, seed)), call(fast, rows(LENGTHS, seed))
        torch.testing.assert_close(logprobs(ours), logprobs(theirs), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(gradients(fast), gradients(stock), atol=1e-3, rtol=1e-3)
        for made in pair:
            material.step(made)
    torch.testing.assert_close(parameters(fast, "one"), parameters(stock, "one"), atol=1e-4, rtol=1e-3)


def test_an_answer_does_not_wait_for_the_last_backward_pass(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = pair
    may = threading.Event()
    launch = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda one: may.wait(60) and launch(one))

    async def both() -> None:
        await fast.forward(rows(LENGTHS), "one", "cross_entropy", None, backward=True)
        assert parameters(fast, "one")[0].grad is None
        step = asyncio.create_task(fast.optim_step(types.AdamParams(learning_rate=1e-2), "one"))
        done, _ = await asyncio.wait([step], timeout=0.1)
        assert not done  # the optimizer waits for gradients
        may.set()
        await step

    before = [one.detach().clone() for one in parameters(fast, "one")]
    asyncio.run(both())
    assert all(not torch.equal(a, b) for a, b in zip(before, parameters(fast, "one"), strict=True))


def test_memory_that_runs_out_after_the_answer_is_found_by_cutting_the_pass(pair, monkeypatch) -> None:
    stock, fast = pair
    theirs = call(stock, rows(LENGTHS))
    fail_late(monkeypatch, 1, torch.OutOfMemoryError("CUDA out of memory"))
    ours = call(fast, rows(LENGTHS))
    torch.testing.assert_close(logprobs(ours), logprobs(theirs), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients(fast), gradients(stock), atol=1e-3, rtol=1e-3)
    assert fast.status.out_of_memory_splits == 1
    material.step(fast)


@pytest.mark.parametrize(
    ("error", "accelerated"), [(torch.OutOfMemoryError("CUDA out of memory"), True), (ValueError("odd"), False)]
)
def test_what_fails_after_the_answer_fails_the_next_request(pair, monkeypatch, error, accelerated: bool) -> None:
    _, fast = pair
    material.add_adapter(fast, "two", 2)
    fail_late(monkeypatch, 100, error)
    call(fast, rows((9,)))
    before = [one.detach().clone() for one in parameters(fast, "one")]
    call(fast, rows((9,)), "two", backward=False)  # another tenant hears nothing of it
    with pytest.raises(type(error), match=str(error)):
        material.step(fast)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(fast, "one"), strict=True))
    assert fast.status.accelerated is accelerated


def test_a_row_that_does_not_fit_alone_is_run_layer_by_layer(pair) -> None:
    stock, fast = pair
    fast._decoder = Small(fast._decoder, most=20)
    theirs, ours = (call(made, rows((30, 12))) for made in (stock, fast))
    torch.testing.assert_close(logprobs(ours), logprobs(theirs), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients(fast), gradients(stock), atol=1e-3, rtol=1e-3)


def test_a_row_that_fits_in_no_way_is_the_clients_business_and_leaves_no_gradients(pair) -> None:
    _, fast = pair
    fast._decoder = Small(fast._decoder, most=20, alone=25)
    with pytest.raises(torch.OutOfMemoryError):
        call(fast, rows((12, 30, 12)))
    assert all(one.grad is None for one in parameters(fast, "one"))
    assert fast.status.accelerated
    call(fast, rows((12, 12)))


def test_a_limit_that_shrank_grows_again(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = pair
    monkeypatch.setattr(model, "GROW_AFTER", 3)
    at_first = fast.status.max_tokens_per_pass
    fast._shrink(10**6)
    fast._shrink(10**6)
    assert fast.status.max_tokens_per_pass == at_first // 4
    seen = []
    for _ in range(9):
        call(fast, rows((4,)))
        seen.append(fast.status.max_tokens_per_pass)
    assert seen[-1] == at_first
    assert sorted(seen) == seen


@pytest.mark.parametrize(
    ("each", "free", "parameters", "expected"),
    [
        (1.6e6, 120e9, 6e8, 32_768),  # 0.6B on 141 GB: as much as is useful
        (4.7e6, 120e9, 4e9, 10_240),  # 4B on 141 GB: larger passes are hardly faster, and take more memory
        (4.7e6, 14e9, 4e9, 2_048),  # 4B on 24 GB
        (1.6e6, 20e9, 6e8, 9_216),  # 0.6B on 24 GB
        (5e6, 1e9, 4e9, 1_024),  # next to nothing: out of memory cuts it further
    ],
)
def test_the_tokens_of_a_pass_follow_from_free_memory(monkeypatch, each, free, parameters, expected) -> None:
    peaks = iter(1e9 + each * tokens for tokens in memory.PROBES)
    monkeypatch.setattr(memory, "_peak", lambda run, tokens, device: next(peaks))
    monkeypatch.setattr(memory, "available", lambda device: free)
    assert memory.fitting(lambda tokens: None, torch.device("cuda"), int(parameters)) == expected


# -- the self-test, and what it is for ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["output", "gradient", "failing"])
def test_a_model_that_computes_something_else_is_served_by_tuft(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    right = model.Decoder

    class Wrong(right):
        def __call__(self, tokens, *args, gradient=False, **how):
            if wrong == "failing":
                raise RuntimeError("no kernel image is available")
            hidden = super().__call__(tokens, *args, gradient=gradient, **how)
            if wrong == "gradient" and gradient:
                hidden.register_hook(lambda g: g + 0.05 * g.norm() / g.numel() ** 0.5)
            return hidden * 1.02 if wrong == "output" else hidden

    monkeypatch.setattr(model, "Decoder", Wrong)
    made = material.model(AcceleratedModel, material.weights(folder, "qwen3"))
    material.add_adapter(made, "one", 1)
    assert made.status.state == "ready"
    assert not made.status.accelerated
    assert "the self-test" in made.status.reason
    call(made, rows((4, 5)))
    assert made.status.calls == {"accelerated": 0, "stock": 1}
    assert self_test.ADAPTER not in made.adapter_optimizer
    assert self_test.ADAPTER not in made.model.peft_config


@pytest.mark.parametrize("error", [RuntimeError("an illegal instruction"), ValueError("zip() argument 2 is shorter")])
def test_a_pass_that_breaks_later_ends_the_acceleration_and_the_request_is_answered(pair, error: Exception) -> None:
    stock, fast = pair

    def broken(*args, **how):
        raise error

    fast._decoder = broken
    broken.dtype = torch.float32
    theirs, ours = (call(made, rows(LENGTHS)) for made in (stock, fast))
    assert torch.equal(logprobs(theirs), logprobs(ours))
    assert torch.equal(gradients(stock), gradients(fast))
    assert fast.status.reason == f"a pass failed: {type(error).__name__}: {error}"
    assert not fast.status.accelerated


def test_everything_waits_for_the_self_test(folder: Path) -> None:
    made = material.model(AcceleratedModel, material.weights(folder, "qwen3"))

    async def at_once():
        return await asyncio.gather(
            made.create_adapter("x", types.LoraConfig(rank=2)),
            made.async_init(),
            made.create_adapter("y", types.LoraConfig(rank=2)),
        )

    asyncio.run(at_once())
    assert made.status.accelerated
    assert set(made.adapter_optimizer) == {"x", "y"}


# -- checks ------------------------------------------------------------------------------------------------------------


def test_this_installation_is_the_one_that_was_tested() -> None:
    assert checks.installation_reason() == ""


@pytest.mark.parametrize("package", checks.VERSIONS)
def test_another_version_is_not_accelerated(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    found = checks.importlib.metadata.version
    monkeypatch.setattr(checks.importlib.metadata, "version", lambda name: "9.9.9" if name == package else found(name))
    assert checks.installation_reason() == f"{package} 9.9.9 was not tested with it"


@pytest.mark.parametrize("name", checks.SOURCES)
def test_a_changed_file_of_tuft_is_not_accelerated(tmp_path: Path, name: str) -> None:
    copied = tmp_path / "tuft"
    shutil.copytree(Path(tuft.__file__).parent, copied)
    assert checks.source_reason(copied) == ""
    with (copied / name).open("a") as file:
        file.write("\n")
    assert checks.source_reason(copied) == f"tuft/{name} is not the file of TuFT 0.2.2"


@pytest.mark.parametrize(
    ("kind", "more", "reason"),
    [
        ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "sliding attention"),
        ("llama", {"hidden_act": "gelu"}, "its activation is gelu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "kind dynamic"),
        ("qwen3", {"head_dim": 12}, "its heads have 12 values"),
    ],
)
def test_models_that_compute_otherwise_are_not_accelerated(kind: str, more: dict[str, object], reason: str) -> None:
    config = material.CONFIGS[kind]()
    given = {**config.to_dict(), **more}
    given.pop("layer_types", None)
    made = material.CLASSES[kind](type(config)(**given))
    assert reason in checks.model_reason(made, checks.Mode.ALWAYS)


def test_another_architecture_and_precision_are_not_accelerated() -> None:
    import transformers

    mixture = transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(**material.COMMON, num_experts=2, moe_intermediate_size=16)
    )
    assert checks.model_reason(mixture, checks.Mode.ALWAYS).startswith("its architecture is Qwen3MoeForCausalLM")
    half = material.CLASSES["qwen2"](material.CONFIGS["qwen2"]()).to(torch.float16)
    assert checks.model_reason(half, checks.Mode.ALWAYS) == "its weights are float16"
    assert checks.model_reason(half.to(torch.bfloat16), checks.Mode.ON) == "there is no CUDA GPU"


def test_the_variable_takes_three_values() -> None:
    assert checks.mode({}) is checks.Mode.ON
    assert checks.mode({checks.VARIABLE: "0"}) is checks.Mode.OFF
    with pytest.raises(ValueError, match="TURNLOOM_TUFT_ACCELERATE: 'yes' can't be used; give 0, 1 or always"):
        checks.mode({checks.VARIABLE: "yes"})


# -- the hook ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch):
    """Installs the hook into TuFT, and takes it out again; returns the classes that Ray would make."""
    from tuft import cli

    made = []

    class Remote:
        def __init__(self, cls):
            self.cls = cls

        def options(self, **how):
            return self

        def remote(self, *args):
            made.append(self.cls)
            return self

        @property
        def async_init(self):
            return type("Method", (), {"remote": lambda self: None})()

    monkeypatch.setattr(stock_module.ray, "remote", Remote)
    monkeypatch.setattr(stock_module.HFTrainingModel, "get_actor", stock_module.HFTrainingModel.__dict__["get_actor"])
    monkeypatch.setattr(cli, "create_root_app", cli.create_root_app)
    monkeypatch.setattr(fsdp_training_backend, "FSDPWorkerActor", fsdp_training_backend.FSDPWorkerActor)
    return made


def config(tmp_path: Path, **more) -> ModelConfig:
    return ModelConfig(model_name="m", model_path=tmp_path, max_model_len=64, capabilities=["training"], **more)


def test_ray_makes_the_accelerated_model(hooked, tmp_path: Path) -> None:
    hook.install({}, tmp_path)
    stock_module.HFTrainingModel.get_actor(config(tmp_path))
    assert hooked == [AcceleratedModel]


def test_ray_makes_the_exact_actor_for_each_gpu_of_an_fsdp_model(hooked, tmp_path: Path) -> None:
    hook.install({}, tmp_path)
    assert fsdp_training_backend.FSDPWorkerActor is fsdp.ExactActor
    one = config(tmp_path, training_backend="fsdp")
    assert hook._of(one, {}, "", exact_fsdp=True).reason == "its training_backend is fsdp, with adapters in fp32"
    assert hook._of(one, {}, "", exact_fsdp=False).reason == "its training_backend is fsdp"


@pytest.mark.parametrize("environment", [{"TURNLOOM_TUFT_ACCELERATE": "0"}, {"RAY_ADDRESS": "10.0.0.1:6379"}])
def test_ray_makes_tufts_own_model(hooked, tmp_path: Path, environment: dict[str, str]) -> None:
    hook.install(environment, tmp_path)
    stock_module.HFTrainingModel.get_actor(config(tmp_path))
    assert hooked == [stock_module.HFTrainingModel]
    assert fsdp_training_backend.FSDPWorkerActor.__module__ == fsdp_training_backend.__name__


def test_another_tuft_runs_as_it_is(hooked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "installation_reason", lambda *sources: "tuft 0.3.0 was not tested with it")
    hook.install({}, tmp_path)
    stock_module.HFTrainingModel.get_actor(config(tmp_path))
    assert hooked == [stock_module.HFTrainingModel]
    assert fsdp_training_backend.FSDPWorkerActor.__module__ == fsdp_training_backend.__name__


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_models_file_is_what_the_route_answers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(status.FOLDER_VARIABLE, str(tmp_path))
    known = [status.ModelStatus("m"), status.ModelStatus("other", state="ready", reason="it does not train")]
    before = status.answer(tmp_path, known)["models"]
    assert [one["state"] for one in before] == ["starting", "ready"]
    made = material.model(AcceleratedModel, material.weights(folder, "qwen3"))
    material.add_adapter(made, "one", 1)
    call(made, rows(LENGTHS))
    call(made, rows((5, 9), **RL), loss="dro")
    made._file.write()
    found = json.loads(json.dumps(status.answer(tmp_path, known)))["models"]
    assert found[0]["accelerated"]
    assert found[0]["calls"] == {"accelerated": 1, "stock": 1}
    assert found[0]["fallbacks"] == {"dro over rows of several lengths, whose padding TuFT counts": 1}
    assert found[0]["tokens"] == sum(LENGTHS)
    assert found[0]["self_test"]["gradient_cosine"] > 0.9999
    assert found[1]["reason"] == "it does not train"


def test_counters_are_written_a_second_later_even_when_nothing_follows(tmp_path: Path) -> None:
    clock = [0.0]
    one = status.ModelStatus("m")
    file = status.StatusFile(tmp_path, one, lambda: clock[0])
    assert file.due() <= 0
    file.write()
    assert file.due() == status.INTERVAL
    clock[0] = 0.4
    assert file.due() == pytest.approx(0.6)


def test_a_full_disk_does_not_end_training(tmp_path: Path) -> None:
    status.StatusFile(tmp_path / "gone", status.ModelStatus("m")).write()
