"""Settings of libraries that a preprocess worker needs before it imports any of them.

Import no other module of ours here. The worker's parent loads the vocabulary and forks a process for each ticket. So no
library may start a thread in it: a fork has only the thread that called it. Waiting for any other never ends.
"""

from __future__ import annotations

import os
from typing import Final

#: One worker is one core, so more threads would only add heaps; pyarrow shall use the heap that is trimmed, not one of
#: its own; no row is ever made a tensor.
ENVIRONMENT: Final = {
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",  # else `tokenizers` starts a thread even for one
    "FASTOKENS_BPE_THREADS": "1",  # 1: the caller's own
    "OPENBLAS_NUM_THREADS": "1",  # numpy starts the others when it is imported
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # of the allocator in pyarrow, though it is not used
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "USE_TORCH": "0",
    "USE_TF": "0",
    "USE_JAX": "0",
}


def set_environment() -> None:
    """Set what is not set yet; call this before numpy is imported."""
    for name, text in ENVIRONMENT.items():
        os.environ.setdefault(name, text)
