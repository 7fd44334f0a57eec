"""Find how many tokens fit into a pass: measure the memory of a token and ask what is free."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final

import torch

SMALLEST: Final = 1024  #: tokens; less makes every pass a matter of launching kernels
LARGEST: Final = 32_768  #: tokens; larger passes were not faster on an H200, even at 0.6B
STEADY: Final = 8_192  #: tokens that no pass needs less of, however large the model is
#: Parameters times tokens of a pass that keeps an H200 busy. Twice of that is 3 % faster at 4B, and takes more memory
#: than a step may: 60 % of what stock TuFT's takes.
WORK: Final = 4.4e13
MARGIN: Final = 0.85  #: of free memory; the rest is for fragmentation and other tenants' adapters
PROBES: Final = (512, 2_048)  #: tokens of the two passes that are measured
ON_A_CPU: Final = 8_192  #: tokens of a pass there


def useful(parameters: int) -> int:
    """Return the tokens above which a larger pass gains nothing: a small model needs more to keep a GPU busy."""
    return _whole(min(LARGEST, max(STEADY, WORK / max(1, parameters))))


def fitting(run: Callable[[int], None], device: torch.device, parameters: int) -> int:
    """Find how many tokens a pass can have.

    Args:
        run: does a forward and backward pass of so many tokens in one row.
        device: where the model is.
        parameters: of the model.
    """
    if device.type != "cuda":
        return ON_A_CPU
    taken = [_peak(run, tokens, device) for tokens in PROBES]
    each = max(1.0, (taken[1] - taken[0]) / (PROBES[1] - PROBES[0]))  # bytes a token
    fixed = max(0.0, taken[0] - each * PROBES[0])  # the head's chunk
    room = MARGIN * available(device) - fixed
    return min(useful(parameters), max(SMALLEST, _whole(room / each)))


def available(device: torch.device) -> float:
    """Return the bytes that this process may still take: the card's free memory, or its limit, plus its cache."""
    free, total = torch.cuda.mem_get_info(device)
    reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total - reserved
    return float(max(0.0, min(float(free), allowed)) + reserved - allocated)


def idle(device: torch.device) -> bool:
    """Return whether the device has done all that was launched."""
    return device.type != "cuda" or bool(torch.cuda.current_stream(device).query())


def ran_out(error: RuntimeError) -> bool:
    """Return whether a library outside PyTorch's allocator ran out of memory: cuBLAS's workspace, a kernel's code."""
    return any(words in str(error) for words in ("out of memory", "ALLOC_FAILED"))


def release() -> None:
    """Free what failed work left; only for after an OutOfMemoryError."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _peak(run: Callable[[int], None], tokens: int, device: torch.device) -> float:
    run(tokens)  # compiles, plans and allocates what lasts
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run(tokens)
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device) - before)


def _whole(tokens: float) -> int:
    return int(tokens) // SMALLEST * SMALLEST
