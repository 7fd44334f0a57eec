"""What the benchmarks on GPUs share: scales, the clock and its results, the machine, the end. Knows no phase."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from bench.gpu.host import Measured, record
from bench.gpu.parts import Place
from bench.gpu.scales import SCALES, Scale
from bench.program import MISSING, end, need_file, need_redis
from services.trainer.host.gpu import find
from turnloom.embedded.tuft_server import REPOSITORY

PR_SET_CHILD_SUBREAPER: Final = 36
MODEL: Final = "bench/qwen3"  #: what clients ask for


@dataclass(slots=True)
class Plan:
    """The plan, its clock and its results."""

    place: Place
    scale: Scale
    out: Path
    deadline: float  #: time.monotonic() at which nothing new is begun
    repetitions: int
    losses: bool  #: compare the first 20 steps' losses as well
    gpus: Sequence[str] = ()  #: of the first and the second server, as CUDA_VISIBLE_DEVICES; empty: they share one

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def steps(self, planned: int) -> int:
        """Steps of a run; fewer in a rehearsal."""
        return max(3, planned // self.scale.shorter)

    def note(self, kind: str, **fields: object) -> None:
        """One line of results, on disk at once."""
        line = {"kind": kind, "size": self.scale.size, "at": round(time.time(), 2), **fields}
        with (self.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        short = {name: _short(value) for name, value in fields.items() if name not in ("nlls", "job")}
        print(f"[{self.left():5.0f}] {kind} {json.dumps(short)[:420]}", flush=True)

    def run(self, kind: str, measure: Callable[[], Measured], **fields: object) -> Measured:
        """Measures and notes."""
        measured = measure()
        self.note(kind, **record(measured), **fields)
        return measured

    # -- phases --------------------------------------------------------------------------------------------------------


def _short(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def need_tuft(python: Path) -> None:
    """End the program where TuFT is not installed in this Python."""
    advice = "name TuFT's Python with --tuft-python"
    need_file(python, advice)
    asked = "import importlib.util, sys; sys.exit(importlib.util.find_spec('tuft') is None)"
    if subprocess.run([str(python), "-c", asked], check=False).returncode:
        end(f"tuft is not installed in {python}; {advice}")


def make_weights(size: str, folder: Path, python: Path) -> None:
    """Once per host."""
    if not (folder / "config.json").is_file():
        command = [str(python), "-m", "bench.gpu.make_model", size, str(folder)]
        made = subprocess.run(command, check=False, cwd=REPOSITORY)
        if made.returncode == MISSING:  # it has said what
            sys.exit(MISSING)
        made.check_returncode()


def begun(arguments: argparse.Namespace) -> tuple[Place, Scale, float]:
    """Make this process ready, and the weights; returns where, how much, and the deadline."""
    deadline = time.monotonic() + arguments.seconds
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what loses its parent stays ours to end
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    os.environ.pop("TURNLOOM_REDIS_URL", None)
    need_file(arguments.prepared, "prepare a model with python -m turnloom.masks.prepare")
    need_redis()
    need_tuft(arguments.tuft_python)
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder = arguments.work / f"{arguments.size}-{os.getpid()}"
    folder.mkdir(parents=True)
    weights = arguments.work / f"weights-{arguments.size}"
    make_weights(arguments.size, weights, arguments.tuft_python)
    scale = SCALES[arguments.size]
    if arguments.micro:
        scale = replace(scale, micro=tuple(int(size) for size in arguments.micro.split(",")))
    python = arguments.tuft_python.absolute()  # not resolved: a virtual environment is known by its link
    place = Place(folder, arguments.prepared.resolve(), weights, python, arguments.rehearse)
    return place, scale, deadline


def machine() -> dict[str, object]:
    """What this is measured on."""
    gpus = find()
    names = ["tuft", "tinker", "ray", "torch", "transformers", "peft", "redis", "rq", "grpcio"]
    versions: dict[str, str] = {}
    for name in names:
        try:
            versions[name] = version(name)
        except ModuleNotFoundError:
            versions[name] = "in TuFT's environment"
    return {
        "gpus": [gpu.name for gpu in gpus.gpus],
        "driver": gpus.driver_version,
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "versions": versions,
    }


def keep_logs(folder: Path, archive: Path) -> None:
    """Logs of a host, without weights and stores."""
    if folder.is_dir():
        logs = [str(path.relative_to(folder)) for path in folder.rglob("*.log")]
        subprocess.run(["tar", "czf", str(archive), "-C", str(folder), *logs], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def end_children() -> None:
    """Kills whatever is still below this process."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(children, timeout=2)
