"""NVIDIA GPUs of this host through NVML: their properties and load. Empty without a driver."""

from __future__ import annotations

from collections.abc import Iterator
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


@contextmanager
def _nvml() -> Iterator[list[object]]:
    """Yield handles of all GPUs; empty without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield []
        return
    try:
        yield [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def find() -> Gpus:
    """Return all GPUs of the host."""
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

    def __init__(self) -> None:
        try:
            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError:
            self._handles = []

    def read(self) -> Gauge:
        """Return mean utilization and used memory of all GPUs; None where one of them (a MIG slice) reports nothing."""
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
