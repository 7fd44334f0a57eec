"""Check before anything runs that a stack can: its parts are installed, its ports are free, its folder is its own."""

from __future__ import annotations

import fcntl
import socket
from pathlib import Path
from typing import Final, TextIO

from turnloom.embedded.tuft_server import TuftError, find_tuft_python
from turnloom.errors import StackError
from turnloom.optional import missing
from turnloom.transport.calls import host_and_port

NEEDED: Final = (
    *("services.preprocess", "services.trainer", "services.rest", "rq", "redis", "tinker", "transformers", "pyarrow"),
    *("fastapi", "uvicorn", "python_multipart"),
)


def check_parts(tuft_python: Path | None) -> Path:
    """Check that everything needed is installed, and return the interpreter of the TuFT environment.

    Args:
        tuft_python: the interpreter that was asked for; None: find_tuft_python().

    Raises:
        StackError: something is missing; the hint says how to install it.
    """
    lacking = [name for name in NEEDED if missing(name)]
    if lacking:
        raise StackError(
            f"The embedded stack needs {', '.join(lacking)}.",
            hint="In a checkout of Turnloom: pip install -e '.[embedded]'",
        )
    if tuft_python is None:
        try:
            return find_tuft_python()
        except TuftError as error:
            raise StackError(str(error)) from error
    if not tuft_python.is_file():
        raise StackError(
            f"There is no TuFT environment at {tuft_python}.",
            hint=f"Make it: scripts/install_tuft_cpu.sh {tuft_python.parent.parent}",
        )
    return tuft_python.absolute()  # not resolved: only the link inside the environment selects that environment


def check_free(address: str, option: str) -> None:
    """Report an address that is taken.

    Args:
        address: host:port; port 0, and what is no address, passes.
        option: of the command line that names another.

    Raises:
        StackError: it can't be listened on.
    """
    parts = host_and_port(address)
    if parts is None:
        return  # port 0, or something that the API refuses
    host, port = parts
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise StackError(
            f"{address} can't be listened on: {error.strerror or error}.",
            hint=f"Stop what has it, or name another with {option}.",
        ) from error


def owned(folder: Path) -> TextIO:
    """Lock a stack's folder: two stacks in one folder would overwrite each other's files.

    Returns:
        A file that holds the lock until it is closed.

    Raises:
        StackError: the folder can't be written, or another stack runs in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        is_file = folder.exists() and not folder.is_dir()
        what = "is a file, not a folder" if is_file else f"can't be written: {error.strerror or error}"
        raise StackError(f"{folder} {what}.", hint="Name another folder with --folder.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise StackError(f"Another stack runs in {folder}.", hint="Stop it first, or name another --folder.") from error
    return lock
