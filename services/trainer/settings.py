"""Settings of the trainer's processes, read once from the environment into a frozen value."""

from __future__ import annotations

import math
import re
import tempfile
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from services.store.redis_url import REDIS_URL_TAKES, redis_url
from services.variables import LOG_LEVELS, BadSetting, log_level, number, parsed, whole
from services.variables import secret as secret_setting

Value = TypeVar("Value")

REDIS_URL: Final = "redis://127.0.0.1:6379/0"

DAY: Final = 86400.0  #: seconds

#: Largest relative difference between a checkpoint's stored probe NLL and the one measured after loading it.
PROBE_TOLERANCE: Final = {"fp32": 1e-6, "bf16": 2e-3}


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a worker and its jobs."""

    host: str  #: name of this GPU host, for good: its queue is train.NAME
    redis_url: str  #: of Turnloom's Redis
    store_url: str  #: folder or fsspec URL of datasets and adapters, the API's own; empty: the store's own default
    tuft_url: str  #: of the TuFT server, without /api/v1 and without a slash at the end
    tuft_api_key: str  #: key of the TuFT server
    sampler_url: str  #: of services/sampler on this host, for a TuFT server that trains only; empty: TuFT samples
    checkpoint_dir: Path  #: the TuFT server's checkpoint folder, mounted here for reading and writing
    allow_cpu: bool  #: work without an NVIDIA GPU; as --allow-cpu
    probe_tolerance: float  #: relative
    lease_ttl: float  #: seconds after which a silent worker has lost its job; the supervisor's own
    call_deadline: float  #: seconds of the longest wait for one call to TuFT
    start_deadline: float  #: seconds that an attempt waits for TuFT
    silence: float  #: seconds that TuFT's health check may stay without an answer
    redis_patience: float  #: seconds of outage of Redis or of the object store that a run survives
    probe_every: float  #: seconds between two reports of this host; well below TURNLOOM_HOST_LOST_SECONDS
    cache_dir: Path  #: where copies of dataset files of an object store are kept
    cache_bytes: int  #: of all copies together
    hour_price: float | None  #: of an hour in which a job is trained here; estimates and jobs then have a cost
    currency: str  #: of the price, ISO 4217
    store_checkpoints: bool  #: copy checkpoints to the store while jobs run; without, no job can leave a lost host
    log_level: str  #: least important lines of the log, which is JSON lines on standard error

    @property
    def queue(self) -> str:
        """Return the one queue that this host's workers listen to."""
        return f"train.{self.host}"


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Read every setting; raise at the first wrong one.

    Raises:
        BadSetting: names the variable, its value and what it takes.
    """
    allow_cpu = _read(environment, "TURNLOOM_ALLOW_CPU", "0", _flag, "0 or 1")
    precision = environment.get("TURNLOOM_TUFT_PRECISION") or ("fp32" if allow_cpu else "bf16")
    if precision not in PROBE_TOLERANCE:
        raise BadSetting(f"TURNLOOM_TUFT_PRECISION: {precision!r} can't be used; give {' or '.join(PROBE_TOLERANCE)}")
    return Settings(
        hour_price=_read(environment, "TURNLOOM_GPU_HOUR_PRICE", "", _price, "a number, 0 or more"),
        currency=_read(environment, "TURNLOOM_CURRENCY", "USD", _currency, "3 capitals"),
        host=_read(environment, "TURNLOOM_HOST", None, _host, "letters, digits, dot, - and _, a name that stays"),
        redis_url=_read(environment, "TURNLOOM_REDIS_URL", REDIS_URL, redis_url, REDIS_URL_TAKES, secret=True),
        store_url=environment.get("TURNLOOM_STORE_URL", ""),
        tuft_url=_read(environment, "TURNLOOM_TUFT_URL", "http://127.0.0.1:10610", _url, "http://HOST:PORT"),
        tuft_api_key=_read(
            environment, "TURNLOOM_TUFT_API_KEY", None, _key, "a key that starts with tml-", secret=True
        ),
        sampler_url=_read(environment, "TURNLOOM_SAMPLER_URL", "", _url_or_none, "http://HOST:PORT"),
        checkpoint_dir=_read(
            environment, "TURNLOOM_TUFT_CHECKPOINT_DIR", None, Path, "the TuFT server's checkpoint folder"
        ),
        allow_cpu=allow_cpu,
        probe_tolerance=PROBE_TOLERANCE[precision],
        lease_ttl=_seconds(environment, "TURNLOOM_LEASE_TTL", "15"),
        call_deadline=_seconds(environment, "TURNLOOM_CALL_DEADLINE", "600"),
        start_deadline=_seconds(environment, "TURNLOOM_START_DEADLINE", "300"),
        silence=_seconds(environment, "TURNLOOM_SDK_SILENCE", "30"),
        redis_patience=_seconds(environment, "TURNLOOM_REDIS_PATIENCE", "300"),
        probe_every=_seconds(environment, "TURNLOOM_PROBE_SECONDS", "20"),
        store_checkpoints=_read(environment, "TURNLOOM_STORE_CHECKPOINTS", "1", _flag, "0 or 1"),
        cache_dir=Path(environment.get("TURNLOOM_STORE_CACHE") or Path(tempfile.gettempdir()) / "turnloom-store"),
        cache_bytes=int(_read(environment, "TURNLOOM_STORE_CACHE_GB", "20", _positive, "GB above 0") * 1e9),
        log_level=_level(environment),
    )


@dataclass(frozen=True, slots=True)
class CompanionSettings:
    """Settings of the supervisor and the exporter: no host, no server, no key."""

    redis_url: str  #: of Turnloom's Redis
    store_url: str  #: empty: the store's own default
    lease_ttl: float  #: seconds; the workers' own
    interval: float  #: seconds between two looks of the supervisor at all jobs
    ticket_grace: float  #: seconds that a queued job may be without a ticket
    host_lost: float  #: seconds of silence after which a host counts as lost
    quota_running: int  #: jobs of one owner on hosts at most; 0: any number
    retention: float  #: seconds that the keys of an archived ledger stay, while its job can be resumed
    retention_done: float  #: the same of a job that succeeded
    file_grace: float  #: seconds that a deleted dataset's file stays; longer than one takes from its last row to READY
    exporter_host: str  #: where the exporter listens
    exporter_port: int  #: its port
    log_level: str  #: least important lines of the log


def companion_from_environment(environment: Mapping[str, str]) -> CompanionSettings:
    """Read the settings of the supervisor and the exporter. Raises BadSetting."""
    return CompanionSettings(
        redis_url=_read(environment, "TURNLOOM_REDIS_URL", REDIS_URL, redis_url, REDIS_URL_TAKES, secret=True),
        store_url=environment.get("TURNLOOM_STORE_URL", ""),
        lease_ttl=_seconds(environment, "TURNLOOM_LEASE_TTL", "15"),
        interval=_seconds(environment, "TURNLOOM_SUPERVISOR_INTERVAL", "1"),
        ticket_grace=_seconds(environment, "TURNLOOM_TICKET_GRACE", "15"),
        host_lost=_seconds(environment, "TURNLOOM_HOST_LOST_SECONDS", "120"),
        quota_running=_read(environment, "TURNLOOM_QUOTA_RUNNING", "0", whole(0), "a number of jobs, 0 for any"),
        retention=_read(environment, "TURNLOOM_LEDGER_DAYS", "7", _positive, "days above 0") * DAY,
        retention_done=_read(environment, "TURNLOOM_LEDGER_HOURS", "1", _positive, "hours above 0") * 3600,
        file_grace=_seconds(environment, "TURNLOOM_DATASET_GRACE", "600"),
        exporter_host=environment.get("TURNLOOM_EXPORTER_HOST") or "0.0.0.0",  # noqa: S104  (Prometheus is elsewhere)
        exporter_port=_read(environment, "TURNLOOM_EXPORTER_PORT", "9465", whole(0, 65535), "a port, 0 to 65535"),
        log_level=_level(environment),
    )


def _read(
    environment: Mapping[str, str],
    name: str,
    default: str | None,
    parse: Callable[[str], Value],
    takes: str,
    *,
    secret: bool = False,
) -> Value:
    text = secret_setting(environment, name) or default
    if text is None:
        raise BadSetting(f"{name}: is not set; give {takes}")
    return parsed(name, text, parse, takes, hidden=secret)


def _seconds(environment: Mapping[str, str], name: str, default: str) -> float:
    return _read(environment, name, default, _positive, "seconds above 0")


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(text)
    return value


def _price(text: str) -> float | None:
    return number(0)(text) if text else None


def _currency(text: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", text):
        raise ValueError(text)
    return text


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", text):
        raise ValueError(text)
    return text


def _url(text: str) -> str:
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(text)
    return text.rstrip("/").removesuffix("/api/v1")


def _url_or_none(text: str) -> str:
    return _url(text) if text else ""


def _key(text: str) -> str:
    if not text.startswith("tml-"):
        raise ValueError(text)
    return text


def _level(environment: Mapping[str, str]) -> str:
    return _read(environment, "TURNLOOM_LOG_LEVEL", "info", log_level, LOG_LEVELS).upper()
