"""The compose stack that scripts/ci_containers.sh has started, as a person at this host sees it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TURNLOOM = Path(sys.executable).parent / "turnloom"


class ComposeStack:
    """Its commands, its engine and its Prometheus."""

    def __init__(self, env_file: str, api_port: str, prometheus_port: str) -> None:
        self.env_file = env_file
        self.secrets = dict(line.split("=", 1) for line in Path(env_file).read_text().splitlines() if "=" in line)
        self.prometheus = f"http://127.0.0.1:{prometheus_port}"
        self.environment = {**os.environ, "TURNLOOM_ADDRESS": f"127.0.0.1:{api_port}", "NO_PROXY": "127.0.0.1"}
        self.base = [
            "docker",
            "compose",
            "--project-name",
            "turnloom-ci",
            "--env-file",
            env_file,
            "--profile",
            "cpu",
        ]
        self.job = ""

    def run(self, command: Sequence[str | Path], seconds: float = 180, check: bool = True) -> str:
        """Output of a command; what it says on stderr comes along where it fails."""
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, timeout=seconds, capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{command[0]} {command[1]} ended with {done.returncode}: {(done.stderr or done.stdout)[-1500:]}"
            )
        return done.stdout + ("" if check else done.stderr)

    def compose(self, *arguments: str, seconds: float = 300, check: bool = True) -> str:
        """A command of docker compose."""
        return self.run([*self.base, *arguments], seconds, check)

    def turnloom(self, *arguments: str | Path, seconds: float = 180) -> Any:
        """JSON of a command of ours; JSON lines become a list."""
        lines = self.run([TURNLOOM, *arguments, "--json"], seconds).strip()
        try:
            return json.loads(lines)
        except json.JSONDecodeError:
            return [json.loads(line) for line in lines.splitlines()]

    def value(self, expression: str) -> float:
        """The one value of an instant query; NaN where there is none."""
        form = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.prometheus}/api/v1/query?{form}", timeout=60) as answer:  # noqa: S310
            found = json.load(answer)["data"]["result"]
        return float(found[0]["value"][1]) if len(found) == 1 else math.nan

    def running(self) -> dict[str, Any]:
        """Name of each running service to what the engine knows of its container."""
        ids = self.compose("ps", "--quiet").split()
        found = json.loads(self.run(["docker", "inspect", *ids]))
        return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in found}


def eventually(what: str, met: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition of another machine's making."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
