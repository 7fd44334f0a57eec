"""Another tenant of a GPU's memory. Knows nothing of servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ballast(size: int) -> Iterator[None]:
    """Another tenant of the card that holds this many bytes of it."""
    code = (
        "import sys, torch\n"
        "left, kept = int(sys.argv[1]) - 600_000_000, []\n"  # what CUDA itself takes in this process
        "while left > 0:\n"
        "    kept.append(torch.empty(min(left, 1 << 30), dtype=torch.uint8, device='cuda')); left -= 1 << 30\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "held":
            raise RuntimeError("the ballast did not fit")
        yield
    finally:
        process.kill()
        process.wait()
