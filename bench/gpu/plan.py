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

from bench.gpu.host import Measured, Scale, record
from bench.gpu.parts import Place
from services.trainer.host.gpu import find
from turnloom.embedded.tuft_server import REPOSITORY

PR_SET_CHILD_SUBREAPER: Final = 36
MODEL: Final = "bench/qwen3"  #: what clients ask for
SCALES: Final = {
    "tiny": Scale(
        "tiny", batch_size=4, max_length=512, chats=160, budget=256, micro=(1, 4), ours=16, shrink=0.15, shorter=3
    ),
    "0.6b": Scale("0.6b", batch_size=32, max_length=2048, chats=1600, budget=16_384, micro=(16, 8, 4, 1)),
    "4b": Scale(
        "4b", batch_size=32, max_length=2048, chats=1600, budget=8_192, micro=(4, 1), last=(8,), run_steps=(6, 5)
    ),
}


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


def make_weights(size: str, folder: Path, python: Path) -> None:
    """Once per host."""
    if not (folder / "config.json").is_file():
        subprocess.run([str(python), "-m", "bench.gpu.make_model", size, str(folder)], check=True, cwd=REPOSITORY)


def options(description: str | None) -> argparse.ArgumentParser:
    """What every benchmark takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SCALES), required=True)
    parser.add_argument("--prepared", type=Path, required=True, help="folder of turnloom.masks.prepare")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/turnloom-bench"))
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tuft-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--micro", help="micro_batch_size of the guide's entries, the best first; default: the size's")
    parser.add_argument("--no-losses", action="store_true", help="leave out the comparison over 21 steps")
    parser.add_argument("--gpus", default="", help="0,1: a GPU for each of two servers; default: they share one")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU")
    return parser


def begun(arguments: argparse.Namespace) -> tuple[Place, Scale, float]:
    """Make this process ready, and the weights; returns where, how much, and the deadline."""
    deadline = time.monotonic() + arguments.seconds
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what loses its parent stays ours to end
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    os.environ.pop("TURNLOOM_REDIS_URL", None)
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
