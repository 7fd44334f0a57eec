"""Run TuFT's own command line with the accelerated model, on a GPU host."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Final

from services.tuft import hook, package_path, status

#: Taken where the operator set nothing. Stock TuFT gives memory back after every call; in large pieces that is cheap.
DEFAULTS: Final = {
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,large_segment_size_mb:512",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # keep the workers in this interpreter under `uv run`
    "RAY_worker_niceness": "0",  # Ray's own is 15: any other process of the host would go before the model's
}


def launch(arguments: Sequence[str]) -> None:
    """Serve until SIGTERM.

    Args:
        arguments: of `tuft launch`.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory(prefix="turnloom-tuft-") as folder:
        prepare(Path(folder), os.environ)
        serve(arguments, Path(folder), os.environ)


def prepare(folder: Path, environment: MutableMapping[str, str]) -> None:
    """Complete the environment of Ray's workers; before Ray starts.

    Args:
        folder: an empty one, which stays as long as the server.
        environment: of this process.
    """
    package_path.expose(folder, environment)
    statuses = folder / "status"
    statuses.mkdir()
    environment[status.FOLDER_VARIABLE] = str(statuses)


def serve(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Change TuFT and hand over to its command line, which ends the process.

    Args:
        arguments: of `tuft launch`.
        folder: what prepare() was given.
        environment: of this process.
    """
    try:
        hook.install(environment, folder / "status")
    except ValueError as error:
        sys.exit(f"services.tuft: {error}")
    from tuft.cli import app  # noqa: PLC0415  (after everything is prepared)

    app(args=["launch", *arguments], prog_name="tuft")
