"""Run a server as a child and leave none of its processes behind, however it or we end. Linux only.

This process imports neither Ray nor TuFT. It waits for a signal or the server's
end, then kills what the server started.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
TICK = 0.5  # seconds between two looks at the parent
GRACE = 12.0  # seconds that TuFT gets to end by itself; its records survive a SIGKILL
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
WAKING = (*ENDING, signal.SIGCHLD)


def keep(command: Sequence[str], environment: Mapping[str, str], parent: int | None, pid_file: Path | None) -> int:
    """Run the server as a child until it ends, we are asked to stop, or our parent is gone.

    Args:
        command: of the server. A folder of its own, with a short path, is appended; it goes when the server does.
        environment: of the server.
        parent: end when this process, which started us, is gone; None: no parent is watched.
        pid_file: where to write the server's process id.

    Returns:
        The server's exit status; 0 when it was asked to end.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, WAKING)  # they are fetched by sigtimedwait, so none is lost or races
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # what loses its parent below us becomes our child, not init's
    # A Unix socket's path may hold 107 characters and Ray adds 60: short, and not below TMPDIR.
    folder = tempfile.mkdtemp(prefix=f"tl-ray-{os.getpid()}-", dir="/tmp")
    server = subprocess.Popen(
        [*command, folder],
        env=dict(environment),
        start_new_session=True,
        preexec_fn=die_with_the_keeper,  # noqa: PLW1509  (this process has one thread)
    )
    try:
        if pid_file:
            pid_file.write_text(f"{server.pid}\n", encoding="ascii")
        asked = wait_for_an_end(server, parent)
        if asked:
            server.terminate()
            wait_until_ended(server, GRACE)
    finally:
        kill_descendants()
        shutil.rmtree(folder, ignore_errors=True)
        if pid_file:
            pid_file.unlink(missing_ok=True)
    return 0 if asked else abs(server.returncode or 1)


def die_with_the_keeper() -> None:
    """Give the child a clean signal mask, and SIGKILL when the keeper is killed. Runs in it, before exec."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_for_an_end(server: subprocess.Popen[bytes], parent: int | None) -> bool:
    """Wait until the server ends (False), or we are asked to stop or our parent is gone (True)."""
    while True:
        received = woken()
        if received in ENDING:
            return True
        if parent is not None and os.getppid() != parent:
            return True
        if received is signal.SIGCHLD:
            reap_orphans(server)
        if server.poll() is not None:
            return False


def wait_until_ended(server: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for the server's own end, not longer than the given time."""
    deadline = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < deadline:
        woken()


def woken() -> signal.Signals | None:
    """Wait for one of WAKING, TICK seconds at most; None: no signal came.

    After SIGSTOP and SIGCONT sigtimedwait may return a number that was never asked for, so it is looked at.
    """
    received = signal.sigtimedwait(WAKING, TICK)
    if received is None or received.si_signo not in WAKING:
        return None
    return signal.Signals(received.si_signo)


def reap_orphans(server: subprocess.Popen[bytes]) -> None:
    """Take the exit status of adopted processes, so that they don't stay as zombies."""
    for child in psutil.Process().children():
        if child.pid != server.pid:
            try:
                os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:  # taken in the meantime
                continue


def kill_descendants() -> None:
    """Kill every process below this one. As the subreaper we see them all; new ones are met in the next round."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(children, timeout=TICK)


def prctl(option: int, value: int) -> None:
    """Ask the Linux kernel for something about this process.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")
