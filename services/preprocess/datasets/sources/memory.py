"""Keep a short-lived process small: return freed memory to the system at once.

Loading a model proves one tokenizer against two others, which are then dropped. Glibc would keep their pages until the
process ends. Measured on a vocabulary of 151,669 tokens: peak 440 MB without this, 380 MB with it. While reading
100,000 chats of a hub dataset: 505 MB without, 254 MB with it, since `datasets` imports torch where it is installed.
"""

from __future__ import annotations

from typing import Final

from services.preprocess.datasets.environment import set_environment
from turnloom.masks.domain.memory import M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, set_malloc

LARGE: Final = 64 << 10  #: bytes; larger blocks are pages of their own


def stay_small() -> None:
    """Set the libraries' environment and the allocator; call this first in the process."""
    set_environment()
    set_malloc((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, LARGE))
