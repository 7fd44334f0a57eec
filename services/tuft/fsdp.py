"""TuFT's fsdp backend with adapters in fp32, and with all of Adam's moments in a checkpoint.

TuFT keeps adapters in bf16 there, where an Adam step of 1e-4 is as large as a rounding of A, and saves the optimizer of
the first GPU alone. Here each GPU's process makes a subclass of TuFT's worker: FSDP gathers and reduces adapters in the
precision they have, and layers run outside of autocast, as those of the hf backend do. The model, its wrapping, slots,
losses, and the adapter's files stay TuFT's.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from tuft.backends import fsdp_training_backend as stock

from services.tuft import checks

log = logging.getLogger("turnloom.tuft")

OPTIMIZER: Final = "optimizer.pt"  #: of TuFT: the first GPU's shard
WHOLE: Final = "optimizer_whole.pt"  #: beside it: every moment whole, and which optimizer.pt it belongs to


class ExactWorker(stock.MultiAdapterFSDPWorker):  # type: ignore[misc]  # TuFT carries no types
    """One GPU's part of the model."""

    def initialize(self) -> None:
        """Build the model as TuFT does, but for the adapters' precision."""
        with _replaced(stock, "fully_shard", functools.partial(_sharded, stock.fully_shard)):
            super().initialize()
        self.module.forward = _outside_of_autocast(self.module.forward)

    def save_checkpoint(self, adapter_name: str, path: str | Path, optimizer: bool = True) -> None:
        """Save as TuFT does, and all of the optimizer's moments in a file of their own; every process calls it."""
        super().save_checkpoint(adapter_name, path, optimizer=optimizer)
        adam = self._adapters[adapter_name].optimizer
        if not optimizer or adam is None:
            return
        state = adam.state_dict()
        state["state"] = {number: _whole(one) for number, one in state["state"].items()}
        if _first():
            folder = Path(path)
            torch.save({"of": _digest(folder / OPTIMIZER), "optimizer": state}, folder / WHOLE)

    def load_checkpoint(
        self,
        adapter_name: str,
        path: str | Path,
        checkpoint_modules: list[str],
        optimizer: bool = True,
        checkpoint_parameters: list[str] | None = None,
    ) -> None:
        """Load as TuFT does; the moments from their own file, where the checkpoint has one."""
        kept = _kept(Path(path)) if optimizer else None
        super().load_checkpoint(
            adapter_name, path, checkpoint_modules, optimizer and kept is None, checkpoint_parameters
        )
        if kept is None:
            return
        self._adapters[adapter_name].optimizer = None  # moments of what was trained before
        self._create_optimizer_for_adapter(adapter_name)
        adam = self._adapters[adapter_name].optimizer
        parameters = [one for group in adam.param_groups for one in group["params"]]
        kept["state"] = {number: _shard(one, parameters[number]) for number, one in kept["state"].items()}
        adam.load_state_dict(kept)


class ExactActor(stock.FSDPWorkerActor):  # type: ignore[misc]
    """The process of one GPU, as Ray runs it."""

    def build_worker(self) -> None:
        """Build an ExactWorker; TuFT's own where this process has another TuFT, or where that fails."""
        if self._worker is not None:  # type: ignore[has-type]
            return
        reason = checks.installation_reason(checks.FSDP_SOURCES) or self._built_exact()
        if reason:
            self._worker = None
            super().build_worker()
            log.warning("turnloom: adapters of %s stay in bf16: %s", self.config_dict.get("model_path"), reason)
        else:
            log.warning("turnloom: adapters of %s are kept in fp32", self.config_dict.get("model_path"))

    def _built_exact(self) -> str:
        """Build an ExactWorker; returns why it could not be."""
        try:
            with _replaced(stock, "MultiAdapterFSDPWorker", ExactWorker):
                super().build_worker()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # any doubt means TuFT's own code
            log.exception("building the worker with adapters in fp32 failed")
            return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        return ""


def _sharded(fully_shard: Callable[..., Any], module: nn.Module, *arguments: Any, **named: Any) -> Any:
    """Shard a module whose adapters become fp32 first; nothing is cast on the way, and gradients are summed in fp32."""
    for name, one in module.named_parameters():
        if ".lora_" in name and not isinstance(one, DTensor):
            one.data = one.data.float()
    named["mp_policy"] = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    return fully_shard(module, *arguments, **named)


def _outside_of_autocast(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Let the layers compute in the precision of their own weights, as in TuFT's hf backend: no A or B is rounded."""

    @functools.wraps(forward)
    def run(*arguments: Any, **named: Any) -> Any:
        with torch.autocast("cuda", enabled=False):
            return forward(*arguments, **named)

    return run


def _whole(state: dict[str, Any]) -> dict[str, Any]:
    """Gather one parameter's moments; every process takes part."""
    return {name: (one.full_tensor().cpu() if isinstance(one, DTensor) else one) for name, one in state.items()}


def _shard(state: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    """Cut one parameter's whole moments as the parameter is cut; every process has them, so nothing is sent."""
    if not isinstance(parameter, DTensor):
        return state
    return {
        name: (
            distribute_tensor(one.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)
            if isinstance(one, Tensor) and one.dim()
            else one
        )
        for name, one in state.items()
    }


def _kept(folder: Path) -> dict[str, Any] | None:
    """Read the whole moments of a checkpoint; None: it has none, or TuFT itself has saved over it since."""
    path = folder / WHOLE
    if not path.is_file() or not (folder / OPTIMIZER).is_file():
        return None
    found = torch.load(path, map_location="cpu", weights_only=True)
    if found["of"] != _digest(folder / OPTIMIZER):
        return None
    state: dict[str, Any] = found["optimizer"]
    return state


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    """Let a name of TuFT's module mean something else, in this process and for a while."""
    was = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, was)
