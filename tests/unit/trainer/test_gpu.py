"""What NVML says of a host with GPUs, without one: the module pynvml is replaced by one that counts its calls."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from services.store.records import GpuRecord, Hyperparameters
from services.trainer.evaluation import Patience
from services.trainer.host import gpu
from services.trainer.loop import Gauge, Run
from services.trainer.tuft import connect
from tests.fakes.fake_tuft import FakeTuft
from tests.support.trainer_parts import SMALL, MemoryJournal, plan, settings_of

GIB = 1 << 30


class NvmlError(Exception):
    """As pynvml.NVMLError."""


@dataclass
class Nvml:
    """The part of pynvml that gpu.py calls, with two GPUs whose load is `reads` percent more at every look."""

    NVMLError: type[Exception] = NvmlError
    driver: bool = True
    slices: bool = False  #: as on a GPU in MIG mode: no utilization
    lost: bool = False  #: a GPU fell off the bus
    reads: int = 0
    shutdowns: int = 0
    asked: list[int] = field(default_factory=list)

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise NvmlError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shutdowns += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "NVIDIA H200"

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.1"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        if self.lost:
            raise NvmlError("GPU is lost")
        return SimpleNamespace(total=141 * GIB, used=(handle + 1) * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: N802
        if self.slices or self.lost:
            raise NvmlError("Not Supported")
        if handle == 0:
            self.reads += 1
        return SimpleNamespace(gpu=self.reads + 10 * handle, memory=0)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    made = Nvml()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu, "pynvml", made)
    return made


def test_all_gpus_are_found_with_their_memory(nvml: Nvml) -> None:
    assert gpu.find() == gpu.Gpus(
        (GpuRecord("NVIDIA H200", "GPU-0", 141 * GIB), GpuRecord("NVIDIA H200", "GPU-1", 141 * GIB)), "570.1"
    )
    assert nvml.shutdowns == 1


def test_a_host_without_a_driver_has_no_gpu(nvml: Nvml) -> None:
    nvml.driver = False
    assert gpu.find() == gpu.Gpus()
    assert gpu.Meter().read() == Gauge()


def test_a_reading_is_the_mean_load_and_all_memory_in_use(nvml: Nvml) -> None:
    assert gpu.Meter().read() == Gauge(utilization=6.0, memory_bytes=3 * GIB)


@pytest.mark.parametrize(
    ("named", "numbers"),
    [("1", [1]), ("0, 1", [0, 1]), ("GPU-0", [0]), ("GPU-1,7", [1]), ("", [0, 1]), ("7", [])],
)
def test_only_the_gpus_that_cuda_may_use_count(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch, named: str, numbers: list[int]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert [one.uuid for one in gpu.find().gpus] == [f"GPU-{number}" for number in numbers]
    read = gpu.Meter().read()
    assert read.memory_bytes == (sum(number + 1 for number in numbers) * GIB if numbers else None)


def test_a_gpu_in_slices_still_says_its_memory(nvml: Nvml) -> None:
    nvml.slices = True
    assert gpu.Meter().read() == Gauge(utilization=None, memory_bytes=3 * GIB)


def test_a_gpu_that_is_lost_in_a_run_makes_its_readings_unknown(nvml: Nvml) -> None:
    meter = gpu.Meter()
    nvml.lost = True
    assert meter.read() == Gauge()


def test_every_step_carries_one_reading(nvml: Nvml, fake_tuft: FakeTuft) -> None:
    backend = connect(settings_of(fake_tuft), SMALL)
    journal = MemoryJournal()
    made = plan(Hyperparameters(max_steps=5, batch_size=4, lora_rank=4))
    run = Run(made, backend, journal, Patience(0, 0.0), gpu.Meter().read, time.monotonic, time.time)
    run.train(0, save_first=True, untested=None)
    backend.close()
    assert [step.gpu_utilization for step in journal.steps] == [6.0, 7.0, 8.0, 9.0, 10.0]
    assert {step.gpu_memory_bytes for step in journal.steps} == {3 * GIB}
    assert nvml.reads == 5
