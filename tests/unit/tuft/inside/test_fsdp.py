"""TuFT's fsdp backend in two processes, with adapters as services.tuft keeps them, beside the hf backend."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import tuft
from tuft.backends.fsdp_training_backend import _canonical_lora_key

from services.tuft import checks, fsdp
from services.tuft.model import AcceleratedModel
from tests.unit.tuft.inside import fsdp_process, material
from tests.unit.tuft.inside.fsdp_process import LENGTHS, SEEDS
from tests.unit.tuft.inside.material import call, rows, step
from turnloom.embedded.ports import free_port

STEPS = 20
RATE = 1e-3
RANK = 4
PROCESSES = multiprocessing.get_context("forkserver")  #: forks of one that has only imported torch and TuFT
PROCESSES.set_forkserver_preload([fsdp_process.__name__])


@pytest.fixture(scope="module")
def one_process(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process's losses, by the accelerated model, and the order for other processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device=None: None)
        patch.setenv("TURNLOOM_TUFT_ACCELERATE", "always")
        return _trained(material.weights(folder, "qwen3", torch.bfloat16), tmp_path_factory.mktemp("start"))


def _trained(path: Path, start: Path) -> dict[str, Any]:
    made = material.model(AcceleratedModel, path, micro=2)
    material.add_adapter(made, "one", 1, rank=RANK)
    state = {
        _canonical_lora_key(name): one.detach().clone()
        for name, one in made.model.named_parameters()
        if ".one." in name
    }
    torch.save(state, start / "adapter.pt")
    losses = []
    for number in range(STEPS):
        losses.append(call(made, rows(LENGTHS, seed=number % SEEDS)).metrics["loss:sum"])
        step(made, rate=RATE)
    modules = sorted(made.model.peft_config["one"].target_modules)
    return {
        "losses": losses,
        "order": {"model": str(path), "start": str(start), "rank": RANK, "modules": modules, "rate": RATE,
                  "steps": STEPS, "processes": 2, "save_after": 8},
    }  # fmt: skip


def run(folder: Path, order: dict[str, Any]) -> dict[str, Any]:
    """All processes of an order."""
    path = folder / "order.json"
    path.write_text(json.dumps({**order, "port": free_port(), "saved": str(folder / "saved")}))
    started = [
        PROCESSES.Process(target=fsdp_process.work, args=(rank, path), daemon=True)
        for rank in range(order["processes"])
    ]
    for one in started:
        one.start()
    for one in started:
        one.join(240)
    assert [one.exitcode for one in started] == [0] * len(started)
    found: dict[str, Any] = json.loads(path.with_suffix(".found.json").read_text())
    return found


def furthest(found: list[float], expected: list[float]) -> float:
    return max(abs(a / b - 1) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def two_processes(one_process: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Where the checkpoint is, and what was found."""
    folder = tmp_path_factory.mktemp("two")
    return folder / "saved", run(folder, {**one_process["order"], "worker": "exact"})


def test_losses_of_two_processes_are_those_of_one(one_process, two_processes) -> None:
    """With adapters in bf16, as TuFT keeps them, the difference is 4.4e-3: the base's own rounding is what is left."""
    _, found = two_processes
    assert found["worker"] == "ExactWorker"
    assert found["adapters"] == ["torch.float32"]
    assert found["base"] == ["torch.bfloat16"]
    assert one_process["losses"][-1] < 0.9 * one_process["losses"][1]  # something was learned
    assert furthest(found["losses"], one_process["losses"]) < 1.5e-3


def test_a_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(one_process, two_processes, tmp_path) -> None:
    """With the first process's moments alone, as TuFT saves them, the difference is 2.7e-2."""
    saved, whole = two_processes
    after = run(tmp_path, {**one_process["order"], "worker": "exact", "goes_on_from": str(saved)})
    assert after["losses"] == whole["losses"][one_process["order"]["save_after"] :]


def test_moments_that_tuft_saved_over_are_not_taken(two_processes, tmp_path: Path) -> None:
    saved, _ = two_processes
    copied = tmp_path / "saved"
    shutil.copytree(saved, copied)
    assert fsdp._kept(copied) is not None
    with (copied / fsdp.OPTIMIZER).open("ab") as file:
        file.write(b"\n")
    assert fsdp._kept(copied) is None
    (copied / fsdp.OPTIMIZER).unlink()
    assert fsdp._kept(copied) is None


def test_a_worker_that_can_not_be_built_so_is_tufts_own(one_process, tmp_path: Path) -> None:
    order = {**one_process["order"], "worker": "exact", "processes": 1, "steps": 1, "save_after": 1}
    found = run(tmp_path, {**order, "broken": "FSDP expects uniform original parameter dtype"})
    assert found["worker"] == "MultiAdapterFSDPWorker"
    assert found["adapters"] == ["torch.bfloat16"]
    assert len(found["losses"]) == 1


@pytest.mark.parametrize("name", checks.FSDP_SOURCES)
def test_a_changed_file_of_tuft_is_left_alone(tmp_path: Path, name: str) -> None:
    copied = tmp_path / "tuft"
    shutil.copytree(Path(tuft.__file__).parent, copied)
    assert checks.source_reason(copied, checks.FSDP_SOURCES) == ""
    with (copied / name).open("a") as file:
        file.write("\n")
    assert checks.source_reason(copied, checks.FSDP_SOURCES) == f"tuft/{name} is not the file of TuFT 0.2.2"
