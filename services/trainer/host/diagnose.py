"""Checks that only a GPU host can make, as a ticket on its queue: GPU, SDK, key, server, folders, clock, adapters.

`run` is what tickets name. It runs in a horse and answers JSON; every check is one sentence and, unless ok, a hint.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from services.store.blobs.deadlines import answers_within
from services.store.blobs.files import below, exists, try_store
from services.store.connection import StoreRedis, connect, redis_time
from services.store.errors import StoreError
from services.store.jobs import Jobs
from services.store.ledger import Ledger
from services.store.records import HELD
from services.trainer.checkpoints import ServerFolder
from services.trainer.errors import BackendError, Code
from services.trainer.host import gpu
from services.trainer.host.readiness import RANK, make_adapters
from services.trainer.settings import Settings, from_environment
from services.trainer.tuft import SDK_VERSION, check_key, check_sdk
from services.trainer.tuft_http import TuftHttp
from turnloom.errors import why
from turnloom.plural import counted

STORE_DEADLINE = 5.0  #: seconds that a request to the object store may take
CLOCK_SKEW = 5.0  #: seconds that this host and Redis may differ by
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its result (training.proto: Check)."""

    name: str
    outcome: str  #: "ok", "warning", "failed", "skipped"
    message: str  #: one sentence
    hint: str = ""  #: what to do; empty when ok
    host: str = ""


def run(host: str, probe: str = "") -> dict[str, list[dict[str, str]]]:
    """Run all checks of the host that took the ticket.

    `host` is the one that was asked, `probe` a file that the asking API has just put into its store.
    """
    settings = from_environment(os.environ)
    checks = diagnose(settings, probe)
    if host and host != settings.host:
        checks.append(
            Check("host", "warning", f"host {host} was asked, host {settings.host} answered", "", settings.host)
        )
    return {"checks": [asdict(check) for check in checks]}


def diagnose(settings: Settings, probe: str = "") -> list[Check]:
    """Run the checks in order of diagnosis; `probe`: a file that must be in the store, empty: none is known."""
    server = TuftHttp(settings.tuft_url, settings.tuft_api_key)
    redis = connect(settings.redis_url, socket_timeout=5.0)
    found: list[Check] = []
    for name, look in (
        ("gpu", lambda: _gpu(settings)),
        ("sdk_version", _sdk),
        ("api_key", lambda: _key(settings)),
        ("proxy", _proxy),
        ("tuft_reachable", lambda: _server(server)),
        ("tuft_ready", lambda: _ready(server, redis, settings)),
        ("acceleration", lambda: _acceleration(server, settings)),
        ("checkpoint_dir", lambda: _folder(settings)),
        ("store", lambda: _store(settings, probe)),
        ("clock", lambda: _clock(redis)),
        ("adapters", lambda: _orphans(server, redis, settings)),
    ):
        found.append(_safely(name, look, settings.host))
    return found


Answer = tuple[str, str, str]  # outcome, message, hint


def _safely(name: str, look: Callable[[], Answer], host: str) -> Check:
    try:
        outcome, message, hint = look()
    except BackendError as error:
        outcome, message, hint = "failed", error.sentence, error.hint
    except (StoreError, OSError) as error:
        outcome, message, hint = "failed", why(error, place=True), ""
    return Check(name, outcome, message, hint, host)


def _gpu(settings: Settings) -> Answer:
    found = gpu.find()
    if found.gpus:
        return "ok", f"{', '.join(one.name for one in found.gpus)}, driver {found.driver_version}", ""
    if settings.allow_cpu:
        return "warning", "no NVIDIA GPU; the worker was started with --allow-cpu", "Expect small models only."
    return "failed", "no NVIDIA GPU answers", "Check nvidia-smi and the container's GPU access."


def _sdk() -> Answer:
    check_sdk()
    return "ok", f"tinker {importlib.metadata.version('tinker')} is the version that TuFT 0.2.2 trains with", ""


def _key(settings: Settings) -> Answer:
    check_key(settings.tuft_api_key)
    other = os.environ.get("TINKER_API_KEY")
    if other and other != settings.tuft_api_key:
        sentence = (
            f"TINKER_API_KEY is set to another key; tinker {SDK_VERSION} is given TURNLOOM_TUFT_API_KEY, which wins"
        )
        return "warning", sentence, "Unset TINKER_API_KEY on the worker."
    TuftHttp(settings.tuft_url, settings.tuft_api_key).training_runs()
    return "ok", "the server takes the key", ""


def _proxy() -> Answer:
    found = [name for name in PROXIES if os.environ.get(name)]
    if found:
        return "warning", f"{', '.join(found)} are set; the trainer reaches TuFT without them", ""
    return "ok", "no proxy variable is set", ""


def _server(server: TuftHttp) -> Answer:
    models = server.models()
    if not models:
        return "failed", f"{server.url} serves no model", "Add one to supported_models of the TuFT server."
    return "ok", f"{server.url} serves {', '.join(model.name for model in models)}", ""


def _ready(server: TuftHttp, redis: StoreRedis, settings: Settings) -> Answer:
    """Make an adapter on each model, the only real proof. Skip this while a job trains, which may need the memory."""
    if any(job.state in HELD and job.host == settings.host for job in Jobs(redis).active()):
        return "skipped", "a job trains here, so the server does; no adapter was made for a test", ""
    try:
        made = make_adapters(server)
    except BackendError as error:
        if error.code is not Code.RANK_NOT_CONFIGURED:
            raise
        return "warning", f"the default lora_rank {RANK} can't be trained: {error.sentence}", error.hint
    told = ", ".join(f"{name} in {seconds:.1f} s" for name, seconds in made.items()) or "none, for it serves no model"
    return "ok", f"an adapter of rank {RANK} was made and dropped on {told}", ""


def _acceleration(server: TuftHttp, settings: Settings) -> Answer:
    """Check that models train at the speed of the GPU. Runs after _ready, once each model has had an adapter."""
    models = server.models()
    undecided = [f"{model.name}: {model.not_accelerated}" for model in models if model.accelerated is None]
    slow = [f"{model.name}: {model.not_accelerated}" for model in models if model.accelerated is False]
    told = [
        f"{model.name} is accelerated, up to {model.max_tokens_per_pass} tokens a pass"
        for model in models
        if model.accelerated
    ]
    if slow:
        sentence = "; ".join([*(f"stock TuFT trains {one}" for one in slow), *told])
        if settings.allow_cpu:
            return "skipped", sentence, ""
        hint = "Start TuFT with `python -m services.tuft launch` and without TURNLOOM_TUFT_ACCELERATE=0; see its log."
        return "warning", sentence, hint
    if undecided:
        return "skipped", "; ".join(undecided), ""
    return "ok", "; ".join(told) or "the server serves no model", ""


def _folder(settings: Settings) -> Answer:
    folder = settings.checkpoint_dir
    hint = "Mount the TuFT server's checkpoint folder here and set TURNLOOM_TUFT_CHECKPOINT_DIR to it."
    if not folder.is_dir():
        return "failed", f"{folder} is not a folder", hint
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return "failed", f"{folder} can't be read and written by user {os.getuid()}", hint
    return "ok", f"{folder} is there", ""


def _store(settings: Settings, probe: str) -> Answer:
    """Check that the store is the API's, since datasets come from there and adapters go there."""
    hint = "Give the API and the workers the same TURNLOOM_STORE_URL, mounted at the same place."
    url = below(settings.store_url, probe)
    if not probe:
        return "skipped", "the object store is not compared, for the API put no file there to look for", ""
    with answers_within(STORE_DEADLINE):
        if not exists(url):
            return "failed", "the object store is not the API's: a file that the API put there is missing", hint
        try_store(settings.store_url)
    return "ok", "the object store is the one of the API; it writes, reads, lists and deletes", ""


def _clock(redis: StoreRedis) -> Answer:
    skew = abs(time.time() - redis_time(redis))
    if skew > CLOCK_SKEW:
        return "warning", f"the clock differs from Redis's by {skew:.1f} s", "Synchronize the clocks (chrony, ntp)."
    return "ok", f"the clock differs from Redis's by {skew:.2f} s", ""


def _orphans(server: TuftHttp, redis: StoreRedis, settings: Settings) -> Answer:
    """Find runs on the server that no job holds any more: they use its memory until they are unloaded."""
    active = Jobs(redis).active()
    ledger, folder = Ledger(redis), ServerFolder(settings.checkpoint_dir)
    needed = {folder.run_of(one.path) for job in active for one in ledger.checkpoints(job.id)}
    loose = [run for run in server.training_runs() if run not in needed]
    if not loose:
        return "ok", "the server holds no run without a job", ""
    sentence = (
        f"the server holds {counted(len(loose), 'run')} that no unfinished job has saved to: {', '.join(loose[:5])}"
    )
    if any(job.state in HELD for job in active):
        return "skipped", f"{sentence}; a job that runs may be about to save its first", ""
    return "warning", sentence, "Restart the TuFT server when no job runs, or unload them."
