"""The processes of GPU hosts: Redis, TuFT and a Redis of its own, API, workers, supervisor, exporter. Only starts.

The same as on a real host, with deploy/tuft/gpu.yaml or a configuration made here. services.tuft starts TuFT, or TuFT's
own command line where the stock one is measured; in a rehearsal it runs on the CPU.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from bench.gpu.watching import StampedLog
from services.trainer.tuft_http import DIRECT, TuftHttp
from turnloom.client import TurnloomClient
from turnloom.embedded.ports import free_port
from turnloom.embedded.processes import Child, tail, wait_until
from turnloom.embedded.redis_server import RedisServer
from turnloom.embedded.tuft_server import LAUNCHER, REPOSITORY
from turnloom.errors import ServerUnreachable, StackError, Unavailable

KEY: Final = "tml-bench-key"
HOST: Final = "gpu-bench"  #: TURNLOOM_HOST of the workers where there is one server
ALLOCATOR: Final = "expandable_segments:True,large_segment_size_mb:512"
START_SECONDS: Final = 150.0  #: for each part
RAY_CPUS: Final = 8  #: Ray starts a worker for each at once; what trains asks for none
GPU_CONFIG: Final = REPOSITORY / "deploy" / "tuft" / "gpu.yaml"
GPU_CONFIG_MODEL: Final = "Qwen/Qwen3-4B-Instruct-2507"  #: the name in it


@dataclass(frozen=True, slots=True)
class Place:
    """Where and with what everything runs."""

    folder: Path  #: logs and state
    prepared: Path  #: tokenizer and template, written by turnloom.masks.prepare
    weights: Path  #: Hugging Face folder of the model
    tuft_python: Path  #: interpreter of TuFT
    rehearsal: bool  #: without a GPU


def served_name(micro_batch_size: int) -> str:
    """The name under which a server with several entries serves the one model with this micro_batch_size."""
    return f"bench/micro-{micro_batch_size}"


def shared(gpus: str, entries: int) -> str:
    """Return CUDA_VISIBLE_DEVICES with which `entries` models share these GPUs.

    Ray counts the names and refuses more models than that. CUDA stops reading at a GPU that does not exist.
    """
    named = gpus.split(",")
    return ",".join(named + [str(1_000 + number) for number in range(entries - len(named))])


@contextmanager
def started(tufts: Sequence[Tuft]) -> Iterator[None]:
    """Start servers side by side, and stop them all at the end."""
    with ExitStack() as stack, ThreadPoolExecutor(len(tufts)) as pool:
        starts = [pool.submit(tuft.__enter__) for tuft in tufts]
        for tuft, start in zip(tufts, starts, strict=True):
            if start.exception() is None:
                stack.push(tuft)
        for start in starts:
            start.result()
        yield


def several_entries(place: Place, micro_batch_sizes: Sequence[int]) -> str:
    """A TuFT configuration that serves one model several times, so that all loops meet the same server and GPU."""
    models = [
        {
            "model_name": served_name(size),
            "model_path": str(place.weights),
            "max_model_len": 4096,
            "capabilities": ["training"],
            "micro_batch_size": size,
            "max_lora_rank": 64,
        }
        for size in micro_batch_sizes
    ]
    return json.dumps(  # JSON is YAML
        {
            "checkpoint_dir": "${oc.env:TURNLOOM_TUFT_CHECKPOINT_DIR}",
            "supported_models": models,
            "authorized_users": {KEY: "bench"},
            "persistence": {
                "mode": "REDIS",
                "redis_url": "${oc.env:TURNLOOM_TUFT_RECORDS_URL}",
                "future_ttl_seconds": 60,
            },
        },
        indent=1,
    )


class Tuft:
    """One TuFT server; its log carries the time of each line."""

    def __init__(
        self,
        place: Place,
        name: str,
        config: Path,
        entries: int,
        *,
        accelerated: bool = True,
        environment: Mapping[str, str] | None = None,
        gpus: str | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            place: where.
            name: of its folder.
            config: TuFT's configuration.
            entries: models in it that share the one GPU; 0: each takes the GPUs that Ray finds for it.
            accelerated: started by services.tuft, which accelerates what it can; else by TuFT itself.
            environment: over what it is started with.
            gpus: as CUDA_VISIBLE_DEVICES; None: as set for this process.
        """
        self.place, self.name, self._config, self._entries, self.gpus = place, name, config, entries, gpus
        self._accelerated, self._more = accelerated, dict(environment or {})
        if listed := gpus or os.environ.get("CUDA_VISIBLE_DEVICES", ""):
            self._more["CUDA_VISIBLE_DEVICES"] = shared(listed, entries)
        self.home = place.folder / name
        self.checkpoints = self.home / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.logs: list[StampedLog] = []
        self._records = RedisServer(self.home / "records", self.home / "records.log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._records.__enter__()
        try:
            self.start()
        except BaseException:
            self._records.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._records.__exit__(None, None, None)

    @property
    def events(self) -> list[tuple[float, str, str]]:
        """Requests as they came and went, of all starts of this server."""
        return [event for log in self.logs for event in log.events]

    def start(self) -> float:
        """Starts the server and waits until it answers and lists its models; returns the seconds that took."""
        begun = time.monotonic()
        arguments = ["--config", str(self._config), "--host", "127.0.0.1", "--port", str(self.port)]
        if self.place.rehearsal:
            command = [str(LAUNCHER), "launch-cpu", *arguments]
        elif self._accelerated:
            command = [str(LAUNCHER), "launch", *arguments]
        else:
            command = ["-m", "tuft", "launch", *arguments]
        self._process = subprocess.Popen(
            [str(self.place.tuft_python), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self._environment()},
            cwd=self.home,
            start_new_session=True,
        )
        self.logs.append(StampedLog(self._process, self.home / "tuft.log"))
        server = TuftHttp(self.url, KEY)
        while not server.healthy():
            if self._process.poll() is not None or time.monotonic() - begun > START_SECONDS:
                said = " / ".join(tail(self.home / "tuft.log", 15))
                self.stop()
                raise StackError(f"TuFT did not start: {said}", hint=f"Its log: {self.home / 'tuft.log'}")
            time.sleep(0.1)
        return time.monotonic() - begun

    def acceleration(self) -> list[dict[str, object]]:
        """What the server says of the accelerated model, of each entry; empty for stock TuFT, and one that is down."""
        request = urllib.request.Request(f"{self.url}/api/v1/turnloom/acceleration", headers={"X-API-Key": KEY})
        try:
            with DIRECT.open(request, timeout=10) as answer:
                return list(json.load(answer)["models"])
        except OSError:
            return []

    def _environment(self) -> dict[str, str]:
        sharing = {  # each entry takes a GPU of Ray's; here they share the one that there is
            "RAY_OVERRIDE_RESOURCES": json.dumps({"GPU": self._entries, "CPU": RAY_CPUS}),
            "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
        }
        rehearsed = {"TURNLOOM_TUFT_ACCELERATE": "always" if self._accelerated else "0"}
        return {
            **(sharing if self._entries else {}),
            **(rehearsed if self.place.rehearsal else {}),
            "TUFT_HOME": str(self.home),
            "TURNLOOM_TUFT_CHECKPOINT_DIR": str(self.checkpoints),
            "TURNLOOM_TUFT_API_KEY": KEY,
            "TURNLOOM_TUFT_MODEL_PATH": str(self.place.weights),
            "TURNLOOM_TUFT_PERSISTENCE": "REDIS",
            "TURNLOOM_TUFT_RECORDS_URL": self._records.url,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_AUTH_MODE": "disabled",
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
            # As in docker-compose.yml; deploy/tuft/README.md says why.
            "PYTORCH_CUDA_ALLOC_CONF": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ALLOCATOR),
            **self._more,
        }

    def kill(self) -> None:
        """SIGKILL for the server's process, as an operator would; then for what it leaves behind."""
        assert self._process is not None
        left = _descendants(self._process.pid)
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _kill(left)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL, for the server and everything that it started."""
        if self._process is None or self._process.poll() is not None:
            return
        left = _descendants(self._process.pid)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(8)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        _kill(left)


class Services:
    """Turnloom itself: Redis, API, supervisor, exporter, and workers for each host."""

    def __init__(
        self, place: Place, folder: Path, tufts: Mapping[str, Tuft], models: Mapping[str, str], workers: int = 1
    ) -> None:
        """Nothing is started yet.

        Args:
            place: where.
            folder: of logs and state.
            tufts: TURNLOOM_HOST -> the server that its workers train on.
            models: name for clients -> tuft_model_name.
            workers: jobs at once on each host.
        """
        self.place, self.tufts, self.folder = place, tufts, folder
        self.address = self.redis_url = self.exporter_url = ""
        self.workers: list[Child] = []
        self.workers_of: dict[str, list[Child]] = {}  #: by TURNLOOM_HOST
        self._models, self._count = models, workers
        self._parts = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._parts.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.close()

    @property
    def store(self) -> str:
        """The object store's folder."""
        return str(self.folder / "store")

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        redis = self._parts.enter_context(RedisServer(self.folder / "redis", self.folder / "redis.log"))
        self.redis_url = redis.url
        models = self.folder / "models.toml"
        models.write_text(
            "".join(
                f"[[models]]\nname = {json.dumps(name)}\nsource = {json.dumps(str(self.place.prepared))}\n"
                f"tuft_model_name = {json.dumps(served)}\n"
                for name, served in self._models.items()
            )
        )
        port_file = self.folder / "api.json"
        command = ["services.preprocess", "--address", "127.0.0.1:0", "--models", str(models)]
        api = self._child("api", [*command, "--port-file", str(port_file), "--metrics-port", "-1"], {})
        self._child("supervisor", ["services.trainer", "supervisor"], {})
        port = free_port()
        self.exporter_url = f"http://127.0.0.1:{port}/metrics"
        exporter = {"TURNLOOM_EXPORTER_HOST": "127.0.0.1", "TURNLOOM_EXPORTER_PORT": str(port)}
        self._child("exporter", ["services.trainer", "exporter"], exporter)
        flags = ["--allow-cpu"] if self.place.rehearsal else []
        for host, tuft in self.tufts.items():
            training = {
                "TURNLOOM_HOST": host,
                "TURNLOOM_TUFT_URL": tuft.url,
                "TURNLOOM_TUFT_API_KEY": KEY,
                "TURNLOOM_TUFT_CHECKPOINT_DIR": str(tuft.checkpoints),
                **({} if tuft.gpus is None else {"CUDA_VISIBLE_DEVICES": tuft.gpus}),
            }
            for number in range(self._count):
                command = ["services.trainer", "worker", *flags]
                worker = self._child(f"worker-{host}-{number}", command, training)
                self.workers.append(worker)
                self.workers_of.setdefault(host, []).append(worker)
        wait_until(port_file.is_file, api, "its address", START_SECONDS)
        self.address = json.loads(port_file.read_text())["address"]
        wait_until(lambda: self._ask(lambda client: bool(client.models.list())), api, "its models", START_SECONDS)
        for worker in self.workers:
            wait_until(lambda: self._ask(self._has_hosts), worker, "its first look at TuFT", START_SECONDS)

    def lose(self, host: str) -> None:
        """SIGKILL for a host's TuFT server and its workers: it does not come back."""
        self.tufts[host].kill()
        for worker in self.workers_of[host]:
            _kill([*_descendants(worker.pid), psutil.Process(worker.pid)])

    def _ask(self, question: Callable[[TurnloomClient], bool]) -> bool:
        try:
            with TurnloomClient(self.address) as client:
                return question(client)
        except (ServerUnreachable, Unavailable):
            return False

    def _has_hosts(self, client: TurnloomClient) -> bool:
        return {host.name for host in client.hosts.list() if host.backend_up} >= set(self.tufts)

    def _child(self, name: str, module: Sequence[str], environment: Mapping[str, str]) -> Child:
        common = {
            "TURNLOOM_REDIS_URL": self.redis_url,
            "TURNLOOM_STORE_URL": self.store,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "PYTHONUNBUFFERED": "1",
        }
        log = self.folder / f"{name}.log"
        child = Child(name, [sys.executable, "-m", *module], log, {**common, **environment}, REPOSITORY)
        self._parts.callback(child.stop, 10.0)
        return child


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), timeout=10)
