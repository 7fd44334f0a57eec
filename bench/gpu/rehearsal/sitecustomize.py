"""Lets TuFT's FSDP backend run on a CPU, over gloo: put on PYTHONPATH in a rehearsal. Changes Ray's workers only."""

from __future__ import annotations

import sys
from typing import Any

if any("default_worker" in argument for argument in sys.orig_argv):
    import torch
    import torch.distributed.device_mesh as meshes

    made = meshes.init_device_mesh

    def on_cpu(_device_type: str, *arguments: Any, **named: Any) -> Any:
        """Make a mesh of processes, whatever device was asked for."""
        return made("cpu", *arguments, **named)

    torch.nn.Module.cuda = lambda self, device=None: self  # type: ignore[method-assign]
    meshes.init_device_mesh = on_cpu  # type: ignore[assignment]
