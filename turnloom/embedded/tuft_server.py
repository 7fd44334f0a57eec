"""Run a TuFT server on this machine's CPU: start it, probe it over plain HTTP, end it without leftovers.

The launcher (services/tuft) owns the process tree, which ends with this process even if that is killed.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from turnloom.embedded.ports import free_port
from turnloom.errors import why

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHER = REPOSITORY / "services" / "tuft" / "__main__.py"  # by path: TuFT's Python has no turnloom
CONFIG = REPOSITORY / "deploy" / "tuft" / "cpu.yaml"
PYTHON_VARIABLE = "TURNLOOM_TUFT_PYTHON"
API_KEY = re.compile(r"tml-[A-Za-z0-9_-]+")
POLL = 0.1  # seconds between two checks of a condition
LOG_TAIL = 2000  # characters of the log in an error


class TuftError(Exception):
    """Something is wrong with the TuFT server on this machine."""


class TuftNotInstalled(TuftError):
    """No Python environment has TuFT installed."""


class TuftDidNotStart(TuftError):
    """The server ended, or did not answer in time."""


class ProcessesLeft(TuftError):
    """The server could not be stopped."""


@dataclass(frozen=True, slots=True)
class TuftSettings:
    """Settings of a server."""

    python: Path  #: interpreter of the TuFT environment, see find_tuft_python()
    home: Path  #: folder of this server alone: log, checkpoints, records of runs
    model_path: Path  #: Hugging Face folder of the model to train
    model_name: str = "turnloom/tiny-qwen3"  #: the name that clients ask for
    api_key: str = "tml-local-dev-key"  #: begins with tml-, letters, digits, _ and -
    port: int = 0  #: 0 = a free one, kept over restarts
    max_model_len: int = 1024  #: tokens; told to clients, not enforced by TuFT
    micro_batch_size: int = 16  #: rows per forward pass
    max_lora_rank: int = 64  #: told to nobody and not enforced by TuFT's hf backend

    def __post_init__(self) -> None:
        """Check early what TuFT or the SDK would refuse late.

        Raises:
            TuftError: the API key has a form that the SDK refuses.
        """
        if not API_KEY.fullmatch(self.api_key):
            raise TuftError("api_key: a TuFT key is tml- followed by letters, digits, _ or -; choose another key.")


def find_tuft_python() -> Path:
    """Return the TuFT environment's interpreter: $TURNLOOM_TUFT_PYTHON, or .venv-tuft in the checkout.

    Raises:
        TuftNotInstalled: there is none; the message says what to run.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    python = Path(named) if named else REPOSITORY / ".venv-tuft" / "bin" / "python"
    if python.is_file():
        return python
    where = f"{PYTHON_VARIABLE} names {python}, which does not exist" if named else f"there is no {python}"
    raise TuftNotInstalled(f"TuFT for the CPU is not installed: {where}; run scripts/install_tuft_cpu.sh .venv-tuft")


class TuftServer:
    """One server process tree; not thread-safe."""

    def __init__(self, settings: TuftSettings) -> None:
        self.settings = settings
        self.api_key = settings.api_key
        self.model_name = settings.model_name
        self.checkpoint_dir = settings.home / "checkpoints"
        self.log_path = settings.home / "tuft.log"
        self._pid_file = settings.home / "server.pid"
        self._port = settings.port
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Address for clients, without /api/v1; fixed from the first start on."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def running(self) -> bool:
        """Whether the process tree is alive; says nothing about health."""
        return self._keeper is not None and self._keeper.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id of the server itself, if there is one."""
        try:
            return int(self._pid_file.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def start(self, deadline: float = 120.0) -> str:
        """Start the server, wait until it answers, and return its address.

        TuFT answers before its model is loaded: create_and_unload() proves that it can train.

        Args:
            deadline: seconds until TuftDidNotStart.

        Raises:
            TuftDidNotStart: with the end of the server's log.
        """
        until = time.monotonic() + deadline
        if self.running:
            return self.url
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        self._port = self._port or free_port()
        with self.log_path.open("ab") as log:
            self._keeper = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment(),
                cwd=self.settings.home,
                start_new_session=True,  # Ctrl-C reaches this process only, which then ends the server in order
            )
        try:
            while not self.healthy():
                if not self.running:
                    raise TuftDidNotStart(f"TuFT ended while starting; the end of {self.log_path}:\n{self._log_tail()}")
                if time.monotonic() > until:
                    raise TuftDidNotStart(
                        f"TuFT did not answer on {self.url} within {deadline:g} s; "
                        f"the end of {self.log_path}:\n{self._log_tail()}"
                    )
                time.sleep(POLL)
        except BaseException:
            self.stop()
            raise
        return self.url

    def command(self) -> list[str]:
        """Return the launcher's command line."""
        return [
            *(str(self.settings.python), str(LAUNCHER), "launch-cpu", "--config", str(CONFIG)),
            *("--port", str(self._port), "--parent", str(os.getpid()), "--pid-file", str(self._pid_file)),
        ]

    def environment(self) -> dict[str, str]:
        """Return the variables for the configuration file and TuFT, on top of this process's own."""
        settings = self.settings
        return {
            "TUFT_HOME": str(settings.home),
            "TURNLOOM_TUFT_CHECKPOINT_DIR": str(self.checkpoint_dir),
            "TURNLOOM_TUFT_MODEL_NAME": settings.model_name,
            "TURNLOOM_TUFT_MODEL_PATH": str(settings.model_path.resolve()),
            "TURNLOOM_TUFT_API_KEY": settings.api_key,
            "TURNLOOM_TUFT_MAX_MODEL_LEN": str(settings.max_model_len),
            "TURNLOOM_TUFT_MICRO_BATCH_SIZE": str(settings.micro_batch_size),
            "TURNLOOM_TUFT_MAX_LORA_RANK": str(settings.max_lora_rank),
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def healthy(self, timeout: float = 2.0) -> bool:
        """Return whether healthz answers; true before the model is loaded."""
        try:
            return self._http("GET", "/api/v1/healthz", None, timeout)[0] == 200
        except OSError:
            return False

    def create_and_unload(self, deadline: float = 60.0) -> None:
        """Create and drop an adapter, which proves that the model is loaded and can be trained.

        Args:
            deadline: seconds for both.

        Raises:
            TuftDidNotStart: with the server's answer.
        """
        until = time.monotonic() + deadline
        session = self._ask("create_session", {"tags": [], "user_metadata": None, "sdk_version": "0.25.0"}, until)[
            "session_id"
        ]
        lora = {"rank": 1, "seed": 0, "train_attn": True, "train_mlp": False, "train_unembed": False}
        order = {"session_id": session, "model_seq_id": 0, "base_model": self.model_name, "lora_config": lora}
        model = self._ask("create_model", order, until)["model_id"]
        self._ask("unload_model", {"model_id": model}, until)

    def _ask(self, what: str, body: dict[str, object], until: float) -> dict[str, str]:
        """Call TuFT's API once, limited to the time left."""
        try:
            status, answer = self._http("POST", f"/api/v1/{what}", body, max(0.1, until - time.monotonic()))
        except OSError as error:
            raise TuftDidNotStart(f"TuFT on {self.url} gave no answer to {what}: {why(error)}") from error
        if status >= 400:
            raise TuftDidNotStart(f"TuFT on {self.url} refused {what} with status {status}: {answer}")
        result: dict[str, str] = json.loads(answer)
        return result

    def _http(self, method: str, path: str, body: dict[str, object] | None, timeout: float) -> tuple[int, str]:
        """Send a request to the server past any proxy: http.client reads no proxy variables."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=timeout)
        headers = {"X-API-Key": self.api_key, "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise ConnectionError(f"it is no HTTP ({type(error).__name__})") from error
        finally:
            connection.close()

    def stop(self, deadline: float = 30.0) -> None:
        """Stop the server and everything it started. Does nothing where nothing runs.

        Args:
            deadline: seconds; TuFT itself gets 12 of them before it is killed.

        Raises:
            ProcessesLeft: the launcher did not come to an end.
        """
        if self.running:
            assert self._keeper is not None
            self._keeper.terminate()
        self._wait_for_the_launcher(deadline)

    def kill(self, deadline: float = 30.0) -> None:
        """Kill the server with SIGKILL, as a crash would; its launcher then kills the rest of the tree.

        Args:
            deadline: seconds until ProcessesLeft.

        Raises:
            ProcessesLeft: the launcher did not come to an end.
        """
        pid = self.pid
        if pid is None:  # the launcher has not got that far
            self.stop(deadline)
            return
        if self.running:
            os.kill(pid, signal.SIGKILL)
        self._wait_for_the_launcher(deadline)

    def restart(self, deadline: float = 120.0) -> str:
        """Kill the server and start it on the same port and records: runs resume at their last checkpoint.

        Args:
            deadline: seconds for the start.

        Raises:
            TuftDidNotStart: with the end of the server's log.
        """
        self.kill()
        return self.start(deadline)

    def _wait_for_the_launcher(self, deadline: float) -> None:
        """Wait for the launcher, which ends last, after everything below it."""
        if self._keeper is None:
            return
        try:
            self._keeper.wait(deadline)
        except subprocess.TimeoutExpired as error:
            raise ProcessesLeft(
                f"TuFT's launcher, process {self._keeper.pid}, did not end in {deadline:g} s."
            ) from error
        if self._keeper.returncode < 0 and (pid := self.pid) is not None:  # killed itself, so it could not clean up
            kill_session(pid)
            for ray_folder in Path("/tmp").glob(f"tl-ray-{self._keeper.pid}-*"):  # noqa: S108  (the launcher's choice)
                shutil.rmtree(ray_folder, ignore_errors=True)
            self._pid_file.unlink(missing_ok=True)

    def _log_tail(self) -> str:
        try:
            return self.log_path.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
        except FileNotFoundError:
            return "(no log was written)"


def kill_session(session: int) -> None:
    """Send SIGKILL to every process of a session; the server is the leader of one. Linux only."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "pid (name) state ppid pgrp session ...", and the name may hold anything
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session:
                os.kill(int(stat.parent.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):  # ended in the meantime
            continue
