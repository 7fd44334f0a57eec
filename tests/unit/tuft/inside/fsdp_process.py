"""One of the processes of TuFT's fsdp backend, on a CPU over gloo: trains an adapter and tells its losses.

Its order is a JSON object: worker ("stock" or "exact"), processes, port, model, start (a folder with adapter.pt), rank,
modules, rate, steps, save_after, goes_on_from (a folder of a checkpoint that was saved after step save_after), and
broken (what building the worker with adapters in fp32 fails with).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed.device_mesh as meshes
from tuft.backends import fsdp_training_backend as stock

from services.tuft import fsdp
from tests.unit.tuft.inside.material import rows

SEEDS = 2  #: of rows: what is learned of them shows soon
LENGTHS = (17, 3, 40, 9, 28, 12, 9, 21)  #: of a step's rows; the processes share them


def on_the_cpu() -> None:
    """TuFT's fsdp backend asks for CUDA in two places only."""
    made = meshes.init_device_mesh
    torch.nn.Module.cuda = lambda self, device=None: self
    meshes.init_device_mesh = lambda _, *arguments, **named: made("cpu", *arguments, **named)


def actor(order: dict[str, Any], rank: int) -> Any:
    """The actor that Ray would make, with its worker built and the adapter loaded."""
    kind = {"stock": stock.FSDPWorkerActor, "exact": fsdp.ExactActor}[order["worker"]]
    config = {
        "model_path": order["model"],
        "max_model_len": 256,
        "slot_config": {
            "rank_slots": {order["rank"]: 2, 2: 1},
            "lora_alpha_ratio": 2,
            "target_modules": order["modules"],
        },
    }
    if broken := order.get("broken"):

        def fail(*_: object, **__: object) -> None:
            raise AssertionError(broken)

        fsdp._sharded = fail
    made = kind(rank, order["processes"], config)
    made.init_dist("127.0.0.1", order["port"])
    made.build_worker()
    return made


def train(order: dict[str, Any], rank: int) -> dict[str, Any]:
    """Steps from the start, or from the checkpoint; this process computes its share of each step's rows."""
    made = actor(order, rank)
    name = made.allocate_slot(order["rank"])
    going_on = order.get("goes_on_from")
    made.load_checkpoint(name, going_on or order["start"], order["modules"], optimizer=bool(going_on))
    share = len(LENGTHS) // order["processes"]
    found = []
    for step in range(order["save_after"] if going_on else 0, order["steps"]):
        data = rows(LENGTHS, seed=step % SEEDS)[rank * share : (rank + 1) * share]
        answer = made.forward_backward(data, name, "cross_entropy", {}, False, 2, None, False, share // 2)
        losses = torch.tensor([answer["metrics"]["loss:sum"]], dtype=torch.float64)
        torch.distributed.all_reduce(losses)
        found.append(float(losses))
        made.optim_step(name, order["rate"], 0.0, 0.0, (0.9, 0.95), 1e-8)
        if step + 1 == order["save_after"] and not going_on:
            made.save_checkpoint(name, order["saved"], optimizer=True)
    kept = {str(one.dtype) for key, one in made._worker.module.named_parameters() if ".lora_" in key}
    others = {str(one.dtype) for key, one in made._worker.module.named_parameters() if ".lora_" not in key}
    return {"losses": found, "adapters": sorted(kept), "base": sorted(others), "worker": type(made._worker).__name__}


def work(rank: int, path: Path) -> None:
    """Do what the file orders; the first process writes what was found beside it."""
    torch.set_num_threads(1)
    on_the_cpu()
    found = train(json.loads(path.read_text()), rank)
    if rank == 0:
        path.with_suffix(".found.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
