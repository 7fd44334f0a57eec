"""The process of bench.gpu.loops, seen from the one that measures."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from turnloom.embedded.tuft_server import REPOSITORY


@dataclass(slots=True)
class Loops:
    """The process of bench.gpu.loops."""

    log: Path
    _process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.gpu.loops"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("ab"),
            text=True,
            cwd=REPOSITORY,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def run(self, order: Mapping[str, object], seconds: float) -> dict[str, object]:
        """Gives an order and waits for its answer; the process is killed when it takes longer."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            self.__exit__(None, None, None)
            self.__enter__()
            return {"times": [], "nlls": [], "cpu_seconds": 0.0, "error": f"no answer within {seconds:g} s"}
        answer: dict[str, object] = json.loads(line)
        return answer
