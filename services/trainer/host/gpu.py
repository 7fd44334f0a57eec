"""NVIDIA GPUs of this host through NVML: their properties and load. Empty without a driver.

NVML knows all GPUs of the host. Where CUDA_VISIBLE_DEVICES names some, as for a worker beside one of two TuFT servers,
only those count.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pynvml

from services.store.records import GpuRecord
from services.trainer.loop import Gauge


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs that NVML found."""

    gpus: tuple[GpuRecord, ...] = ()
    driver_version: str = ""


def _visible(listed: str | None = None) -> list[object]:
    """Return handles of the GPUs that count, in NVML's order; after nvmlInit. `listed`: as CUDA_VISIBLE_DEVICES."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "") if listed is None else listed
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    named = [name.strip() for name in listed.split(",") if name.strip()]
    return [one for number, one in enumerate(handles) if not named or _is_named(number, one, named)]


def _is_named(number: int, handle: object, named: Sequence[str]) -> bool:
    """Return whether CUDA_VISIBLE_DEVICES names a GPU: by its number, or by the beginning of its UUID."""
    if str(number) in named:
        return True
    uuid = str(pynvml.nvmlDeviceGetUUID(handle))
    return any(name.startswith("GPU-") and uuid.startswith(name) for name in named)


@contextmanager
def _nvml() -> Iterator[list[object]]:
    """Yield handles of all GPUs; empty without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield []
        return
    try:
        yield _visible()
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def find() -> Gpus:
    """Return the GPUs that count."""
    with _nvml() as handles:
        if not handles:
            return Gpus()
        return Gpus(
            tuple(
                GpuRecord(
                    name=str(pynvml.nvmlDeviceGetName(handle)),
                    uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
                    memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                )
                for handle in handles
            ),
            str(pynvml.nvmlSystemGetDriverVersion()),
        )


class Meter:
    """Reads the GPUs repeatedly; call `read` once a step."""

    def __init__(self, listed: str | None = None) -> None:
        """Find the GPUs; none without a driver. `listed`: which, as in CUDA_VISIBLE_DEVICES; None: as set there."""
        try:
            pynvml.nvmlInit()
            self._handles = _visible(listed)
        except pynvml.NVMLError:
            self._handles = []

    def read(self) -> Gauge:
        """Return their mean utilization and used memory; None where one of them (a MIG slice) reports nothing."""
        if not self._handles:
            return Gauge()
        return Gauge(self._utilization(), self._memory())

    def _utilization(self) -> float | None:
        try:
            busy = [float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) for handle in self._handles]
        except pynvml.NVMLError:
            return None
        return sum(busy) / len(busy)

    def memory_of_each(self) -> list[int]:
        """Return the bytes in use on each GPU. Raises pynvml.NVMLError where one reports nothing."""
        return [int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in self._handles]

    def _memory(self) -> int | None:
        try:
            return sum(self.memory_of_each())
        except pynvml.NVMLError:
            return None
