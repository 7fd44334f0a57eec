"""A real Prometheus of our own on a free port. Knows no metric.

The server is prometheus on PATH. Without one the test is skipped with the reason; with CI set it fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from turnloom.embedded.ports import free_port

ROOT = Path(__file__).parents[2]


def program(name: str = "prometheus") -> str:
    """Path of an installed program of the package."""
    found = shutil.which(name)
    if found is None:
        reason = f"no {name}: install Debian's package prometheus"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def eventually(what: str, met: Callable[[], bool], deadline: float = 120.0) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + deadline
    while not met():
        assert time.monotonic() < end, f"not within {deadline:.0f} s: {what}"
        time.sleep(0.1)


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


class Prometheus:
    """The project's rules and scrape jobs over targets of this test; a context manager."""

    def __init__(self, folder: Path, targets: Mapping[str, int], interval: float) -> None:
        """targets: name of a scrape job of deploy/prometheus/prometheus.yml to the port it is found at here."""
        self.url = f"http://127.0.0.1:{free_port()}"
        self._folder = folder
        self._program = program()
        pace = f"{round(interval * 1000)}ms"
        config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
        del config["alerting"]  # nobody is to be told
        config["global"] = {"scrape_interval": pace, "scrape_timeout": pace, "evaluation_interval": "1s"}
        config["scrape_configs"] = [
            {"job_name": job["job_name"], "static_configs": [{"targets": [f"127.0.0.1:{targets[job['job_name']]}"]}]}
            for job in config["scrape_configs"]
            if job["job_name"] in targets
        ]
        assert len(config["scrape_configs"]) == len(targets)
        (folder / "rules").mkdir(parents=True)
        for path in (ROOT / "deploy/prometheus/rules").glob("*.yml"):
            (folder / "rules" / path.name).write_text(path.read_text().replace("interval: 15s", "interval: 1s"))
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Prometheus:
        command = [
            self._program,
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=warn",
        ]
        with (self._folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually("Prometheus is ready", self._ready)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def _ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
        try:
            return bool(read(f"{self.url}/-/ready"))
        except OSError:  # not only refused: an answer may also break off
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Series of an instant query."""
        form = urllib.parse.urlencode({"query": expression})
        answer = json.loads(read(f"{self.url}/api/v1/query?{form}"))
        return list(answer["data"]["result"])

    def value(self, expression: str) -> float:
        """The one value of an instant query; NaN where there is none."""
        found = self.query(expression)
        assert len(found) <= 1, f"{expression} has {len(found)} series"
        return float(found[0]["value"][1]) if found else float("nan")

    def rules(self) -> list[dict[str, Any]]:
        """All rules as Prometheus runs them."""
        groups = json.loads(read(f"{self.url}/api/v1/rules"))["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]
