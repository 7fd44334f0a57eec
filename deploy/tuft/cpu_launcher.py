"""Runs the real, unmodified TuFT on a machine without a GPU and leaves no process behind. Knows nothing of Turnloom.

python cpu_launcher.py --config cpu.yaml --port 10610 [--host 127.0.0.1] [--parent PID] [--pid-file FILE]

Two processes of this file. The keeper (this command) imports neither Ray nor TuFT: it starts the server, waits, and
at the end kills whatever the server started. The server gives Ray one logical GPU per model that trains, makes the
one CUDA call that fails without a GPU a no-op in Ray's workers, and hands over to TuFT's own command line.
Needs Linux, and the packages of scripts/install_tuft_cpu.sh.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
TICK = 0.5  # seconds between two looks at the parent
GRACE = 12.0  # seconds that TuFT gets to end by itself; its records survive a SIGKILL
OBJECT_STORE_BYTES = 128 * 1024 * 1024  # Ray's minimum is 75 MiB; a batch of tokens needs far less
WAKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # two threads were 5 to 10 times slower on 2 cores
    "RAY_AUTH_MODE": "disabled",  # otherwise Ray 2.60 writes a token below the user's home
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # keep the workers in this interpreter under `uv run`
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",  # the GPU is logical: hide_gpus() decides what torch sees
    "RAY_memory_monitor_refresh_ms": "0",  # Ray's own OOM killer counts the memory of foreign processes as well
    "HF_HUB_OFFLINE": "1",  # the model is a local folder
    "PYTHONUNBUFFERED": "1",
}


def main() -> int:
    """Keeps, or, as the keeper's child, serves."""
    arguments = parse_arguments()
    return serve(arguments) if arguments.ray_folder else keep(arguments)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="The real TuFT on a CPU.")
    parser.add_argument("--config", type=Path, required=True, help="TuFT's configuration file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=10610)
    parser.add_argument("--parent", type=int, help="end when this process, which started us, is gone")
    parser.add_argument("--pid-file", type=Path, help="where to write the process id of the server")
    parser.add_argument("--ray-folder", help=argparse.SUPPRESS)
    return parser.parse_args()


# -- the keeper ------------------------------------------------------------------------------------------------------


def keep(arguments: argparse.Namespace) -> int:
    """Runs the server as a child; returns its exit status once nothing of it is left."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WAKING)  # they are fetched by sigtimedwait, so none is lost or races
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # what loses its parent below us becomes our child, not init's
    # A Unix socket's path may hold 107 characters and Ray adds 60: short, and not below TMPDIR.
    ray_folder = tempfile.mkdtemp(prefix=f"tl-ray-{os.getpid()}-", dir="/tmp")
    command = [sys.executable, __file__, *sys.argv[1:], "--ray-folder", ray_folder]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | ENVIRONMENT
    server = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=die_with_the_keeper)  # noqa: PLW1509
    try:
        if arguments.pid_file:
            arguments.pid_file.write_text(f"{server.pid}\n", encoding="ascii")
        asked = wait_for_an_end(server, arguments.parent)
        if asked:
            server.terminate()
            wait_until_ended(server, GRACE)
    finally:
        kill_descendants()
        shutil.rmtree(ray_folder, ignore_errors=True)
        if arguments.pid_file:
            arguments.pid_file.unlink(missing_ok=True)
    return 0 if asked else abs(server.returncode or 1)


def die_with_the_keeper() -> None:
    """Runs in the child before exec: it gets a clean signal mask, and SIGKILL when the keeper is killed."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_for_an_end(server: subprocess.Popen[bytes], parent: int | None) -> bool:
    """Waits until the server ends (False), or we are asked to stop or our parent is gone (True)."""
    while True:
        received = signal.sigtimedwait(WAKING, TICK)
        if received is not None and received.si_signo != signal.SIGCHLD:
            return True
        if parent is not None and os.getppid() != parent:
            return True
        if received is not None:
            reap_orphans(server)
        if server.poll() is not None:
            return False


def wait_until_ended(server: subprocess.Popen[bytes], seconds: float) -> None:
    """Waits for the server's own end, not longer than the given time."""
    deadline = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < deadline:
        signal.sigtimedwait(WAKING, TICK)


def reap_orphans(server: subprocess.Popen[bytes]) -> None:
    """Takes the exit status of adopted processes, so that they don't stay as zombies."""
    for child in psutil.Process().children():
        if child.pid != server.pid:
            try:
                os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:  # taken in the meantime
                continue


def kill_descendants() -> None:
    """Kills every process below this one. As the subreaper we see them all; new ones are met in the next round."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(children, timeout=TICK)


def prctl(option: int, value: int) -> None:
    """Asks the Linux kernel for something about this process.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


# -- the server ------------------------------------------------------------------------------------------------------


def serve(arguments: argparse.Namespace) -> int:
    """Starts a Ray of our own, then TuFT's command line, which returns after SIGTERM."""
    import ray  # noqa: PLC0415  (the keeper stays small and free of threads)
    from tuft.cli import main as tuft  # noqa: PLC0415
    from tuft.config import load_yaml_config  # noqa: PLC0415

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
    sys.argv = [
        "tuft",
        "launch",
        "--config",
        str(arguments.config),
        "--host",
        arguments.host,
        "--port",
        str(arguments.port),
    ]
    tuft()
    return 0


def hide_gpus() -> None:
    """Runs first in each of Ray's workers: torch sees no GPU, and TuFT's memory statistics are a no-op.

    TuFT calls torch.cuda.reset_peak_memory_stats() for every micro-batch; of all its CUDA calls only this one fails
    without a GPU.
    """
    import os  # noqa: PLC0415  (this function travels to the workers by itself)

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch  # noqa: PLC0415

    torch.cuda.reset_peak_memory_stats = lambda device=None: None


if __name__ == "__main__":
    sys.exit(main())
