"""Preprocess workers as processes, and datasets made by them from files, for tests of sources."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.api_calls import Api, dataset_stream
from turnloom.v1 import datasets_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 200  #: seconds that a small dataset may take on a busy machine


@dataclass
class Workers:
    """Starts workers that know the model of the test and read below `roots`; all of them end with the test."""

    environment: dict[str, str]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, folder: Path = ROOT, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a worker; `folder` is its working directory."""
        process = subprocess.Popen(
            [sys.executable, "-m", "services.preprocess", "worker"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment, **environment},
        )
        self.running.append(process)
        return process

    def end(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(60)


@dataclass
class Sources:
    """An API that reads below `roots`, and workers for it."""

    api: Api
    roots: Path
    workers: Workers

    def create(self, uri: Path | str, options: object = None, **source: object) -> pb.Dataset:
        header: dict[str, object] = {"source": pb.DatasetSource(uri=str(uri), **source)}  # type: ignore[arg-type]
        if options is not None:
            header["options"] = options
        return self.api.datasets.CreateDataset(_header_only(**header), timeout=30).dataset

    def skipping(self, uri: Path | str, **source: object) -> pb.Dataset:
        header = {"source": pb.DatasetSource(uri=str(uri), **source), "bad_rows": pb.BAD_ROWS_SKIP}  # type: ignore[arg-type]
        return self.api.datasets.CreateDataset(_header_only(**header), timeout=30).dataset

    def ended(self, dataset: pb.Dataset, seconds: float = LIMIT) -> pb.Dataset:
        """The dataset when it is no longer made."""
        last = dataset
        for update in self.api.datasets.WatchDataset(pb.WatchDatasetRequest(id=dataset.id), timeout=seconds):
            last = update.dataset
        assert last.state != pb.DATASET_STATE_CREATING
        return last

    def ready(self, uri: Path | str, **source: object) -> pb.Dataset:
        """Makes a dataset and waits until it is READY."""
        made = self.ended(self.create(uri, **source))
        assert made.state == pb.DATASET_STATE_READY, made.error
        return made

    def failed(self, dataset: pb.Dataset) -> pb.Dataset:
        made = self.ended(dataset)
        assert made.state == pb.DATASET_STATE_FAILED
        return made


def _header_only(**header: object) -> Iterator[pb.CreateDatasetRequest]:
    yield next(dataset_stream(**header))


def chat_lines(count: int, first: int = 0) -> Iterator[str]:
    """JSON lines of small chats, each different."""
    for index in range(first, first + count):
        turns = [
            {"role": "user", "content": f"question {index}"},
            {"role": "assistant", "content": f"answer {index} " + "word " * (index % 7)},
        ]
        yield json.dumps({"messages": turns}) + "\n"


def write_lines(path: Path, count: int) -> Path:
    path.write_text("".join(chat_lines(count)))
    return path


def poll(condition: Callable[[], bool], seconds: float = LIMIT) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)
