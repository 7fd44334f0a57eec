"""Keeps a short-lived process small: freed memory goes back to the system at once. Knows nothing of what it holds.

Loading a model proves one tokenizer against two others, which are then dropped; glibc would keep their pages until the
process ends. Measured on a vocabulary of 151,669 tokens: peak 440 MB without this, 380 MB with it.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

M_TRIM_THRESHOLD: Final = -1  #: of mallopt(3)
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
LARGE: Final = 64 << 10  #: bytes; larger blocks are pages of their own


def stay_small() -> None:
    """Call it first in the process; does nothing where the C library has no mallopt."""
    # One worker is one core: more threads would only add heaps. More workers are the way to more cores.
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, LARGE)):
            mallopt(parameter, value)
