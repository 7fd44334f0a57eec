"""The real, unmodified TuFT on a machine without a GPU: for tests, the demo, a laptop.

Two processes run this module: a keeper (keeper.py), and as its child the server. The server gives Ray one logical GPU
per model that trains. In Ray's workers it makes the one CUDA call that fails without a GPU a no-op. Then it hands over
to TuFT's own command line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from services.tuft.keeper import keep

OBJECT_STORE_BYTES: Final = 128 * 1024 * 1024  #: Ray's minimum is 75 MiB; a batch of tokens needs far less
ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",  # two threads were 5 to 10 times slower on 2 cores
    "RAY_AUTH_MODE": "disabled",  # otherwise Ray 2.60 writes a token below the user's home
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # keep the workers in this interpreter under `uv run`
    "RAY_worker_niceness": "0",  # Ray's own is 15: any other process of the host would go before the model's
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",  # the GPU is logical: hide_gpus() decides what torch sees
    "RAY_memory_monitor_refresh_ms": "0",  # Ray's own OOM killer counts the memory of foreign processes as well
    "HF_HUB_OFFLINE": "1",  # the model is a local folder
    "PYTHONUNBUFFERED": "1",
}


def launch_cpu(given: Sequence[str]) -> int:
    """Keep, or, as the keeper's child, serve; returns the exit status."""
    arguments = parse(given)
    if arguments.ray_folder:
        return serve(arguments)
    program = Path(__file__).with_name("__main__.py")
    command = [sys.executable, str(program), "launch-cpu", *given, "--ray-folder"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | ENVIRONMENT
    return keep(command, environment, arguments.parent, arguments.pid_file)


def parse(given: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m services.tuft launch-cpu", description="The real TuFT on a CPU.")
    parser.add_argument("--config", type=Path, required=True, help="TuFT's configuration file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=10610)
    parser.add_argument("--parent", type=int, help="end when this process, which started us, is gone")
    parser.add_argument("--pid-file", type=Path, help="where to write the process id of the server")
    parser.add_argument("--ray-folder", help=argparse.SUPPRESS)
    return parser.parse_args(given)


def serve(arguments: argparse.Namespace) -> int:
    """Start a Ray of our own, then TuFT's command line, which returns after SIGTERM."""
    import ray  # noqa: PLC0415  (the keeper stays small and free of threads)
    from tuft.config import load_yaml_config  # noqa: PLC0415

    from services.tuft import launch  # noqa: PLC0415

    folder = Path(arguments.ray_folder) / "turnloom"
    folder.mkdir()
    launch.prepare(folder, os.environ)  # before Ray, whose workers inherit it
    models = [model for model in load_yaml_config(arguments.config).supported_models if model.training_enabled]
    ray.init(
        address="local",  # never a Ray that runs already
        num_cpus=max(1, len(models)),  # an actor that asks for a GPU takes a CPU of Ray's as well
        num_gpus=max(1, len(models)),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        runtime_env={"worker_process_setup_hook": hide_gpus},
        _temp_dir=arguments.ray_folder,
    )
    launch.serve(
        ["--config", str(arguments.config), "--host", arguments.host, "--port", str(arguments.port)], folder, os.environ
    )
    return 0


def hide_gpus() -> None:
    """Run first in each of Ray's workers: torch sees no GPU, and TuFT's memory statistics are a no-op.

    TuFT calls torch.cuda.reset_peak_memory_stats() for every micro-batch; of all its CUDA calls only this one fails
    without a GPU.
    """
    import os  # noqa: PLC0415  (this function travels to the workers by itself)

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch  # noqa: PLC0415

    torch.cuda.reset_peak_memory_stats = lambda device=None: None
