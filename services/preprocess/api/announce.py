"""Announce where the API listens, to whoever asked for port 0."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path


def announce(address: str, metrics_port: int, port_file: Path | None) -> None:
    """Print one JSON line with the bound address, and write it to a file."""
    line = json.dumps({"address": address, "metrics_port": metrics_port, "pid": os.getpid()})
    print(line, flush=True)  # noqa: T201  # this is the command's output
    if port_file is not None:
        _write_whole(port_file, line + "\n")


def _write_whole(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the whole line or no file."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)
