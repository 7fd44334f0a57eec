"""A fake TuFT for tests: starts it in a process of its own, orders faults, reads its call log. Knows no tinker.

It speaks the wire format of tinker 0.25.0 as TuFT 0.2.2 does, with a small real model behind it (tuft_model.py), real
checkpoints on disk, and restarts. tests/contract holds it to what the real server does.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from turnloom.embedded.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
POLL = 0.02  # seconds between two looks at a condition


class FakeTuft:
    """A fake server process. Context manager; the port stays the same over restarts."""

    def __init__(
        self,
        home: Path,
        *,
        api_key: str = "tml-fake",
        model_name: str = "turnloom/fake",
        buckets: int = 256,
        persistence: bool = True,
        samples: bool = False,
        packs: int = 0,
        inside: Sequence[str] = (),
    ) -> None:
        """A server that is not started yet.

        Args:
            home: its folder.
            api_key: the one that it takes.
            model_name: the one model that it serves.
            buckets: ids of its model.
            persistence: it comes back with its records.
            samples: it writes replies, too.
            packs: real tokens of one pass, as the accelerated server of services/tuft; 0: it is a stock TuFT.
            inside: words before the command, which put the process into a network namespace.
        """
        self._inside = tuple(inside)
        self.home = home
        self.api_key = api_key
        self.model_name = model_name
        self.checkpoint_dir = home / "checkpoints"
        self._buckets = buckets
        self._persistence = persistence
        self.samples = samples
        self.packs = packs
        self._port = free_port()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Address for clients, without /api/v1."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, deadline: float = 60.0) -> str:
        """Starts the process; returns the address, at which it answers."""
        command = [
            *self._inside,
            sys.executable,
            "-m",
            "tests.fakes.tuft_http",
            "--home",
            str(self.home),
            "--api-key",
            self.api_key,
        ]
        command += ["--model-name", self.model_name, "--port", str(self._port), "--buckets", str(self._buckets)]
        if not self._persistence:
            command.append("--forgetful")
        if self.samples:
            command.append("--samples")
        if self.packs:
            command += ["--packs", str(self.packs)]
        self.home.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self.home / "fake.log").open("ab"),
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], deadline)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            self.kill()
            raise RuntimeError(f"the fake TuFT did not start: {(self.home / 'fake.log').read_text()[-2000:]}")
        self._port = int(line)
        return self.url

    def stop(self) -> None:
        """Ends the process; there is nothing it would have to save."""
        self.kill()

    def kill(self) -> None:
        """SIGKILL; start() brings it back with what its records hold."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait(60)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def fault(self, kind: str, fault: str, *, at: int = 1, times: int | None = None, **more: Any) -> None:
        """Orders a fault (tuft_faults.py has the list).

        Args:
            kind: forward_backward, forward, optim_step, save_weights, save_weights_for_sampler, load_weights,
                create_sampling_session, asample,
                create_session, create_model, unload_model, retrieve_future, session_heartbeat, healthz, or * for any.
            fault: what shall happen.
            at: from the n-th call of that kind on, counted from now.
            times: how often; None = for ever.
            more: when="before"|"during"|"after", ms, seconds, above_tokens.
        """
        self._control("POST", "/_faults", {"kind": kind, "fault": fault, "at": at, "times": times, **more})

    def clear_faults(self, fault: str = "") -> None:
        """Everything works again; with a fault's name, all but the other faults."""
        self._control("DELETE", f"/_faults/{fault}")

    def faults(self) -> list[dict[str, Any]]:
        """The orders, with the calls they saw and hit."""
        return list(self._control("GET", "/_faults"))

    def calls(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Calls in order of arrival (without retrieve_future and heartbeats), with their outcome once there is one."""
        return [call for call in self._control("GET", "/_calls") if kind in (None, call["kind"])]

    def state(self) -> dict[str, Any]:
        """Boots, sessions, and per run: optimizer_steps, next_seq_id, checkpoints, weights_sha256, gradients_wait."""
        return dict(self._control("GET", "/_state"))

    def restart(self, *, rollback: bool = True, lose_everything: bool = False, seconds: float = 0.0) -> None:
        """Restarts inside the process and waits until it answers again.

        Args:
            rollback: runs come back at their last checkpoint, as with persistence; else nothing is lost.
            lose_everything: as without persistence.
            seconds: for which connections are refused in between.
        """
        how = "restart_lost" if lose_everything else "restart_rollback" if rollback else "restart_keep"
        boots = self.state()["boots"]
        with suppress(http.client.RemoteDisconnected, ConnectionResetError):  # it may cut the call that asked for it
            self._control("POST", "/_restart", {"how": how, "seconds": seconds})
        self.wait_for(lambda: self.state()["boots"] > boots, seconds + 60)

    def wait_for(self, condition: Any, deadline: float = 60.0) -> None:
        """Waits for a condition on the server; a refused connection counts as not yet.

        Raises:
            TimeoutError: it did not come true.
        """
        until = time.monotonic() + deadline
        while True:
            try:
                if condition():
                    return
            except (OSError, http.client.HTTPException):
                pass
            if time.monotonic() > until:
                raise TimeoutError(f"the fake TuFT did not get there within {deadline:g} s")
            time.sleep(POLL)

    def _control(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise ValueError(json.loads(raw)["detail"])
        return json.loads(raw) if raw else None
