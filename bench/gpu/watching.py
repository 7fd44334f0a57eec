"""Samples of a run from outside: TuFT's own log with the time of each line, the GPU, CPU seconds of processes."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from services.trainer.host.gpu import Meter

#: TuFT logs these for every operation, forward_backward and optim_step among them.
FUTURE: Final = re.compile(r"Future (enqueued|completed|failed)\b[^:]*: ([0-9a-f-]{36})")
SAMPLE_SECONDS: Final = 0.1


class StampedLog:
    """Copies a process's output to a file and keeps when each request came to the server and when it was done."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.events: list[tuple[float, str, str]] = []  #: (seconds since 1970, enqueued | completed | failed, id)
        self._thread = threading.Thread(target=self._copy, args=(process, path), daemon=True)
        self._thread.start()

    def _copy(self, process: subprocess.Popen[bytes], path: Path) -> None:
        assert process.stdout is not None
        with path.open("ab") as copy:
            for line in process.stdout:
                now = time.time()
                found = FUTURE.search(line.decode(errors="replace"))
                if found:
                    self.events.append((now, found[1], found[2]))
                copy.write(b"%.4f " % now + line)
                copy.flush()


class Sampler:
    """Calls a function again and again in a thread of its own, as long as its with block lasts."""

    def __init__(self, sample: Callable[[float], None], seconds: float = SAMPLE_SECONDS) -> None:
        self._sample, self._seconds = sample, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self._sample(time.time())


class GpuSamples:
    """Utilization and memory of one server's GPUs through NVML; stays empty where there is no driver."""

    def __init__(self, gpus: str | None = None) -> None:
        """Find them. `gpus`: as CUDA_VISIBLE_DEVICES; None: as set for this process."""
        self.utilization: list[tuple[float, float]] = []  #: (time, percent)
        self.memory: list[tuple[float, float]] = []  #: (time, bytes), of all GPUs together
        self.memory_of_each: list[tuple[float, list[int]]] = []  #: (time, bytes of each GPU)
        self._meter = Meter(gpus)

    def take(self, now: float) -> None:
        """One sample."""
        gauge = self._meter.read()
        if gauge.utilization is not None and gauge.memory_bytes is not None:
            self.utilization.append((now, gauge.utilization))
            self.memory.append((now, float(gauge.memory_bytes)))
            self.memory_of_each.append((now, self._meter.memory_of_each()))


class HorseSamples:
    """CPU seconds of the processes that train jobs: the forked children of the workers."""

    def __init__(self, workers: list[int]) -> None:
        self.cpu: dict[int, list[tuple[float, float]]] = {}  #: horse -> (time, CPU seconds since its start)
        self._workers = [psutil.Process(pid) for pid in workers]

    def take(self, now: float) -> None:
        """One sample of each horse that lives."""
        for worker in self._workers:
            try:
                horses = [child for child in worker.children() if "probe-host" not in child.cmdline()]
                for horse in horses:
                    used = horse.cpu_times()
                    self.cpu.setdefault(horse.pid, []).append((now, used.user + used.system))
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue

    def between(self, begin: float, end: float) -> float | None:
        """CPU seconds of the one horse that worked all this time; None where it is not one."""
        at_work = [one for one in self.cpu.values() if one[0][0] <= begin and one[-1][0] >= end - 2 * SAMPLE_SECONDS]
        if len(at_work) != 1:
            return None
        samples = at_work[0]
        first = min(samples, key=lambda sample: abs(sample[0] - begin))
        last = min(samples, key=lambda sample: abs(sample[0] - end))
        return last[1] - first[1]
