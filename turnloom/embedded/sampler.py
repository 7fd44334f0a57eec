"""Start services/sampler beside the embedded TuFT server, which without a GPU trains only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from turnloom.embedded.ports import free_port
from turnloom.embedded.processes import Child, wait_until
from turnloom.embedded.tuft_server import REPOSITORY, TuftServer

PROGRAM: Final = REPOSITORY / "services" / "sampler" / "__main__.py"  # by path: TuFT's Python has no turnloom
START_SECONDS: Final = 120.0


def start_sampler(python: Path, model: Path, name: str, tuft: TuftServer, log: Path) -> tuple[Child, str]:
    """Start a sampler and wait until its model is loaded.

    Args:
        python: interpreter of the TuFT environment.
        model: folder of the base model.
        name: TuFT's name of it.
        tuft: the server whose checkpoints it reads and whose key it takes.
        log: file for its output.

    Returns:
        The process, which keeps its port when it is restarted, and its address.

    Raises:
        StackError: it ended, or was not ready in time.
    """
    port = free_port()
    port_file = tuft.settings.home / "sampler.port"
    port_file.unlink(missing_ok=True)
    command = [str(python), str(PROGRAM), "--model", str(model), "--model-name", name]
    command += ["--checkpoints", str(tuft.checkpoint_dir), "--port", str(port), "--port-file", str(port_file)]
    child = Child("Sampler", command, log, {"TURNLOOM_TUFT_API_KEY": tuft.api_key}, tuft.settings.home)
    try:
        wait_until(port_file.is_file, child, "its model", START_SECONDS)
    except BaseException:
        child.stop(0.0)
        raise
    return child, f"http://127.0.0.1:{port}"
