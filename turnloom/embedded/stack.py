"""Run all of Turnloom on one machine without a GPU: Redis, TuFT, sampler, APIs, worker, supervisor, exporter.

    with Stack(StackSettings(Path(".turnloom"))) as stack:
        client = TurnloomClient(stack.address)

One folder holds everything: logs/, redis/, store/, files/, tuft/, model/, models.toml. Every process ends with the
stack; if the stack itself is killed, the kernel ends them.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from turnloom.client import TurnloomClient
from turnloom.embedded import sample_data, tiny_model
from turnloom.embedded.ports import free_port
from turnloom.embedded.preconditions import check_free, check_parts, owned
from turnloom.embedded.processes import Child, undisturbed, wait_until
from turnloom.embedded.redis_server import RedisServer
from turnloom.embedded.sampler import start_sampler
from turnloom.embedded.tuft_server import (
    REPOSITORY,
    TuftError,
    TuftServer,
    TuftSettings,
)
from turnloom.errors import InvalidInput, ServerUnreachable, StackError, Unavailable
from turnloom.models_file import ModelEntry, read_models

MODEL: Final = "turnloom/tiny-qwen3"
HOST: Final = "embedded"  #: TURNLOOM_HOST of the worker
START_SECONDS: Final = 120.0  #: for each part
STOP_SECONDS: Final = 35.0  #: the worker may take 30 s to save and requeue its job


@dataclass(frozen=True, slots=True)
class StackSettings:
    """Settings of a stack."""

    folder: Path  #: where its state lies; made where absent
    tuft_python: Path | None = None  #: interpreter of the TuFT environment; None: find_tuft_python()
    address: str = "127.0.0.1:0"  #: of the API; port 0: a free one
    http_address: str = "127.0.0.1:0"  #: of the OpenAI-compatible service; port 0: a free one
    conversations: Sequence[Path] = ()  #: JSONL that the tiny model's tokenizer is made from; (): the sample's
    models: Path | None = None  #: a models.toml whose models the API serves beside the tiny one
    workers: int = 1  #: jobs that run at once
    metrics_port: int = 0  #: of the API on loopback; 0: a free one
    exporter_port: int = 0  #: likewise, of the exporter
    lease_ttl: float = 15.0  #: seconds after which a dead worker's job is taken over
    say: Callable[[str], None] = field(default=lambda sentence: None)  #: told of each part that is being started


class Stack:
    """The parts, started in order by `with` and stopped in reverse."""

    def __init__(self, settings: StackSettings) -> None:
        self.settings = settings
        self.folder = settings.folder.resolve()
        self.model = MODEL
        self.address = ""  #: host:port of the API
        self.openai_url = ""  #: base_url of OpenAI's clients
        self.redis_url = ""
        self.exporter_url = ""  #: metrics of jobs
        self.sampler_url = ""  #: of services/sampler
        self.metrics_url = ""  #: metrics of the API
        self.tuft: TuftServer | None = None
        self._children: list[Child] = []
        self._restartable: list[Child] = []
        self._parts = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop every part, last started first; signals wait until that is done."""
        with undisturbed():
            self._parts.close()

    def check(self) -> None:
        """Raise StackError if a part has ended."""
        for child in self._children:
            if not child.running:
                raise child.epitaph()
        if self.tuft is not None and not self.tuft.running:
            raise StackError("The TuFT server ended.", hint=f"Its log: {self.tuft.log_path}")

    def mend(self) -> None:
        """Restart ended parts that hold no state: a worker, the supervisor, the exporter, the sampler.

        Raises:
            StackError: another part ended, or one of these keeps ending.
        """
        for child in self._children:
            if not child.running and child in self._restartable:
                self.settings.say(f"{child.name} again; it ended {child.how}")
                child.restart()
        self.check()

    def describe(self) -> dict[str, str | int]:
        """Return the addresses, for people and for stack.json."""
        assert self.tuft is not None
        return {
            "address": self.address,
            "openai_url": self.openai_url,
            "model": self.model,
            "redis_url": self.redis_url,
            "tuft_url": self.tuft.url,
            "sampler_url": self.sampler_url,
            "metrics_url": self.metrics_url,
            "exporter_url": self.exporter_url,
            "folder": str(self.folder),
            "pid": os.getpid(),
        }

    def _start(self) -> None:
        say = self.settings.say
        python = check_parts(self.settings.tuft_python)
        self._check_ports()
        own = self._own_models()
        self._parts.enter_context(owned(self.folder))
        say("Redis")
        redis = self._parts.enter_context(RedisServer(self.folder / "redis", self._log("redis")))
        self.redis_url = redis.url
        if redis.child is not None:
            self._children.append(redis.child)
        say("model")
        model = self._make_model(python)
        api = self._start_api(model, own)  # it prepares the tokenizer while TuFT starts
        say("TuFT server")
        self.tuft = self._start_tuft(python, model)
        say("sampler")
        sampler, self.sampler_url = start_sampler(python, model, MODEL, self.tuft, self._log("sampler"))
        self._parts.callback(sampler.stop, STOP_SECONDS)
        self._children.append(sampler)
        self._restartable.append(sampler)
        say("supervisor, exporter, worker")
        self._start_companions()
        say("API")
        self._wait_for_api(api)
        say("OpenAI-compatible service")
        self._start_rest()
        say("worker's first look at TuFT")
        self._wait_for_host()
        (self.folder / "stack.json").write_text(json.dumps(self.describe(), indent=2) + "\n", encoding="utf-8")
        self._parts.callback((self.folder / "stack.json").unlink, missing_ok=True)

    def _check_ports(self) -> None:
        asked = self.settings
        check_free(asked.address, "--address")
        check_free(asked.http_address, "--http")
        check_free(f"127.0.0.1:{asked.metrics_port}", "--metrics-port")
        check_free(f"127.0.0.1:{asked.exporter_port}", "--exporter-port")

    def _make_model(self, python: Path) -> Path:
        conversations = list(self.settings.conversations)
        for path in conversations:
            if not path.is_file():
                raise InvalidInput(f"There is no file {path}.", hint="Look at the spelling and the folder.")
        if not conversations:
            sample = self.folder / "sample.jsonl"
            sample_data.write_jsonl(sample, sample_data.train_conversations())
            conversations = [sample]
        try:
            return tiny_model.build(python, self.folder / "model", conversations)
        except tiny_model.ModelNotMade as error:
            raise StackError(
                str(error), hint="Is the TuFT environment whole? Remove it and install it again."
            ) from error

    def _start_api(self, model: Path, own: Sequence[ModelEntry]) -> Child:
        models = self.folder / "models.toml"
        models.write_text("\n".join(self._model_tables(model, own)), encoding="utf-8")
        port_file = self.folder / "api.json"
        port_file.unlink(missing_ok=True)
        command = ["services.preprocess", "--address", self.settings.address, "--models", str(models)]
        command += ["--port-file", str(port_file), "--metrics-port", str(self.settings.metrics_port or -1)]
        command += ["--reflection"]
        return self._child("API", command, self._preprocessing())

    def _own_models(self) -> list[ModelEntry]:
        """Return the models of the user's file.

        Raises:
            InvalidInput: it can't be used.
        """
        path = self.settings.models
        entries = read_models(path) if path else []
        if any(entry.name == MODEL for entry in entries):
            raise InvalidInput(f"{path}: has the model {MODEL!r}, which is served already; give yours another name.")
        return entries

    def _model_tables(self, model: Path, own: Sequence[ModelEntry]) -> Iterator[str]:
        """Yield the tiny model's table, then those of the user's models."""
        for entry in (ModelEntry(MODEL, str(model)), *own):
            yield "[[models]]"
            yield from (f"{key} = {json.dumps(str(value))}" for key, value in asdict(entry).items() if value)
            yield ""

    def _preprocessing(self) -> dict[str, str]:
        """Return settings that the API and its queue's worker share; files below the user's folder may be sources."""
        return {
            "TURNLOOM_MODELS": str(self.folder / "models.toml"),
            "TURNLOOM_MODEL_CACHE": str(self.folder / "models"),
            "TURNLOOM_SOURCE_ROOTS": os.environ.get("TURNLOOM_SOURCE_ROOTS") or str(Path.cwd()),
        }

    def _start_tuft(self, python: Path, model: Path) -> TuftServer:
        home = self.folder / "tuft"
        home.mkdir(parents=True, exist_ok=True)
        tuft = TuftServer(TuftSettings(python=python, home=home, model_path=model, model_name=MODEL))
        self._parts.callback(tuft.stop)
        try:
            tuft.start(START_SECONDS)
        except TuftError as error:
            raise StackError(str(error)) from error
        return tuft

    def _start_companions(self) -> None:
        assert self.tuft is not None
        port = self.settings.exporter_port or free_port()
        self.exporter_url = f"http://127.0.0.1:{port}/metrics"
        self._companion("Supervisor", ["services.trainer", "supervisor"], {})
        self._companion("Preprocess worker", ["services.preprocess", "worker"], self._preprocessing())
        self._companion(
            "Exporter",
            ["services.trainer", "exporter"],
            {"TURNLOOM_EXPORTER_HOST": "127.0.0.1", "TURNLOOM_EXPORTER_PORT": str(port)},
        )
        for number in range(1, self.settings.workers + 1):
            self._companion(
                "Worker" if self.settings.workers == 1 else f"Worker {number}",
                ["services.trainer", "worker", "--allow-cpu"],
                {
                    "TURNLOOM_HOST": HOST,
                    "TURNLOOM_TUFT_URL": self.tuft.url,
                    "TURNLOOM_TUFT_API_KEY": self.tuft.api_key,
                    "TURNLOOM_TUFT_CHECKPOINT_DIR": str(self.tuft.checkpoint_dir),
                    "TURNLOOM_SAMPLER_URL": self.sampler_url,
                },
            )

    def _companion(self, name: str, module: Sequence[str], environment: dict[str, str]) -> None:
        """Start a stateless process that may be restarted."""
        self._restartable.append(self._child(name, module, environment))

    def _child(self, name: str, module: Sequence[str], environment: dict[str, str]) -> Child:
        """Start one of Turnloom's own processes and make the stack responsible for it."""
        common = {
            "TURNLOOM_REDIS_URL": self.redis_url,
            "TURNLOOM_STORE_URL": str(self.folder / "store"),
            "TURNLOOM_LEASE_TTL": f"{self.settings.lease_ttl:g}",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-m", *module]
        child = Child(name, command, self._log(name), {**common, **environment}, REPOSITORY)
        self._parts.callback(child.stop, STOP_SECONDS)
        self._children.append(child)
        return child

    def _wait_for_api(self, api: Child) -> None:
        port_file = self.folder / "api.json"
        wait_until(port_file.is_file, api, "its address", START_SECONDS)
        bound = json.loads(port_file.read_text(encoding="utf-8"))
        self.address = bound["address"]
        self.metrics_url = f"http://127.0.0.1:{bound['metrics_port']}/metrics"
        with TurnloomClient(self.address) as client:
            wait_until(lambda: _has_models(client), api, "its models", START_SECONDS)

    def _start_rest(self) -> None:
        port_file = self.folder / "rest.json"
        port_file.unlink(missing_ok=True)
        settings = {
            "TURNLOOM_REST_API": self.address,
            "TURNLOOM_REST_FILES_URL": str(self.folder / "files"),
            "TURNLOOM_REST_WEBHOOK_SECRET": os.environ.get("TURNLOOM_REST_WEBHOOK_SECRET") or self._webhook_secret(),
            "TURNLOOM_TOKEN": "",  # the user's own, which callers of the service don't get
        }
        child = self._child(
            "REST",
            ["services.rest", "--address", self.settings.http_address, "--port-file", str(port_file)],
            settings,
        )
        self._companion("Notifier", ["services.rest", "notify"], settings)
        wait_until(port_file.is_file, child, "its address", START_SECONDS)
        bound = json.loads(port_file.read_text(encoding="utf-8"))
        self.openai_url = f"http://{bound['address']}/v1"

    def _webhook_secret(self) -> str:
        """Return a secret that survives restarts, since receivers verify signatures with it."""
        path = self.folder / "webhook-secret"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32), encoding="utf-8")
        return path.read_text(encoding="utf-8")

    def _wait_for_host(self) -> None:
        """Wait until a worker reports TuFT: before that, a job would be refused."""
        until = time.monotonic() + START_SECONDS
        with TurnloomClient(self.address) as client:
            while not any(host.name == HOST and host.backend_up for host in client.hosts.list()):
                self.check()
                if time.monotonic() > until:
                    raise StackError(
                        f"The worker did not report a TuFT server within {START_SECONDS:g} s.",
                        hint=f"Its log: {self._log('Worker')}",
                    )
                time.sleep(0.2)

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name.lower().replace(' ', '-')}.log"


def _has_models(client: TurnloomClient) -> bool:
    try:
        return bool(client.models.list())
    except (ServerUnreachable, Unavailable):
        return False
