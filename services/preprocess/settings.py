"""The API's settings: __main__ reads them once into one frozen value; errors name the setting that is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from services.store.redis_url import REDIS_URL_TAKES, redis_url
from services.variables import LOG_LEVELS, address, log_level, number, parsed, secret, whole

T = TypeVar("T")
parse_processes: Final = whole(1, 64)  #: reads a number of processes
MOST_CONVERSATIONS: Final = 2**32 - 1  #: of a dataset: rows name their conversation in 32 bits


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """All settings of `python -m services.preprocess`."""

    address: str = "127.0.0.1:50051"  #: host:port of gRPC; port 0: a free one
    models: Path = Path("models.toml")  #: which models are served
    model_cache: Path = Path(".turnloom/models")  #: where sources that are not prepared folders are prepared to
    redis_url: str = "redis://127.0.0.1:6379/0"  #: of Turnloom's Redis
    store_url: str = ".turnloom/store"  #: fsspec URL or a local folder
    metrics_address: str = "127.0.0.1"  #: where metrics are served
    metrics_port: int = 9464  #: of the metrics; 0: none; -1: a free one
    reflection: bool = False  #: answer gRPC reflection
    processes: int = 1  #: that serve the API together on one port, each with models and limits of its own
    threads: int = 64  #: handler threads, >= 4; half of them may hold streams
    drain_seconds: float = 20.0  #: what SIGTERM grants to running calls
    idle_seconds: float = 300.0  #: after which a stream that sends nothing is ended
    source_roots: tuple[str, ...] = ()  #: absolute folders and fsspec URLs below which named sources may lie
    shard_lease: float = 15.0  #: seconds after which a silent worker has lost its shard of a dataset
    tokens: Path | None = None  #: file of bearer tokens; None: everybody may do everything
    tls_cert: Path | None = None  #: PEM of the server's certificate chain; with tls_key: TLS, else plain text
    tls_key: Path | None = None  #: PEM of its key
    tls_client_ca: Path | None = None  #: PEM of authorities; clients must show a certificate of one of them (mTLS)
    max_calls: int = 256  #: calls that run or wait for a thread at once
    work_bytes: int = 128 * 2**20  #: bytes of request messages that are worked on at a time
    call_seconds: float = 60.0  #: seconds that one message of a call may be worked on
    rate: float = 5_000.0  #: conversations per second and token, 0: no limit; without tokens there is none
    max_dataset_conversations: int = 10_000_000  #: conversations of one dataset
    max_dataset_bytes: int = 64 * 2**30  #: bytes of the messages that bring one dataset
    quota_queued: int = 0  #: jobs of one owner in the queue at most; 0: any number
    log_level: str = "info"  #: least important lines of the log

    @property
    def max_streams(self) -> int:
        """Return how many long calls may run at once."""
        return self.threads // 2

    @property
    def calls_per_token(self) -> int:
        """Return how many calls of one token may run or wait at once: never all threads."""
        return max(1, self.threads * 3 // 4)

    @property
    def streams_per_token(self) -> int:
        """Return how many long calls of one token may run at once."""
        return max(1, self.max_streams * 3 // 4)


def read_settings(environment: Mapping[str, str]) -> ApiSettings:
    """Return settings from TURNLOOM_* variables.

    An unset or empty variable takes its default; NAME_FILE names a file that holds the value.

    Raises:
        BadSetting: the first variable that can't be used.
    """
    default = ApiSettings()

    def value(name: str, fallback: T, parse: Callable[[str], T], needed: str) -> T:
        text = secret(environment, f"TURNLOOM_{name}")
        hidden = "URL" in name  # it may hold a password
        return parsed(f"TURNLOOM_{name}", text, parse, needed, hidden=hidden) if text else fallback

    return ApiSettings(
        address=value("ADDRESS", default.address, address, "HOST:PORT"),
        models=value("MODELS", default.models, Path, "a path"),
        model_cache=value("MODEL_CACHE", default.model_cache, Path, "a path"),
        redis_url=value("REDIS_URL", default.redis_url, redis_url, REDIS_URL_TAKES),
        store_url=value("STORE_URL", str(Path(default.store_url).resolve()), _store_url, "a folder or an fsspec URL"),
        metrics_address=value("METRICS_ADDRESS", default.metrics_address, str, "an address"),
        metrics_port=value(
            "METRICS_PORT", default.metrics_port, whole(-1, 65535), "a port, 0 (off) or -1 (a free one)"
        ),
        reflection=value("REFLECTION", default.reflection, {"0": False, "1": True}.__getitem__, "0 or 1"),
        processes=value("PROCESSES", default.processes, parse_processes, "a number from 1 to 64"),
        threads=value("THREADS", default.threads, whole(4, 1000), "a number from 4 to 1000"),
        drain_seconds=value(
            "DRAIN_SECONDS", default.drain_seconds, number(0, 3600), "a number of seconds from 0 to 3600"
        ),
        idle_seconds=value(
            "IDLE_SECONDS", default.idle_seconds, number(1, 86_400), "a number of seconds from 1 to 86400"
        ),
        source_roots=value(
            "SOURCE_ROOTS", default.source_roots, _roots, "absolute folders and URLs separated by commas"
        ),
        shard_lease=value(
            "SHARD_LEASE", default.shard_lease, number(0.1, 3600), "a number of seconds from 0.1 to 3600"
        ),
        tokens=value("TOKENS", default.tokens, Path, "a path"),
        tls_cert=value("TLS_CERT", default.tls_cert, Path, "a path"),
        tls_key=value("TLS_KEY", default.tls_key, Path, "a path"),
        tls_client_ca=value("TLS_CLIENT_CA", default.tls_client_ca, Path, "a path"),
        max_calls=value("MAX_CALLS", default.max_calls, whole(4, 10_000), "a number from 4 to 10000"),
        work_bytes=value("WORK_BYTES", default.work_bytes, whole(1), "a number of bytes, 1 or more"),
        call_seconds=value(
            "CALL_SECONDS", default.call_seconds, number(1, 86_400), "a number of seconds from 1 to 86400"
        ),
        rate=value("RATE", default.rate, number(0), "a number of conversations a second, 0 for no limit"),
        max_dataset_conversations=value(
            "MAX_DATASET_CONVERSATIONS",
            default.max_dataset_conversations,
            whole(1, MOST_CONVERSATIONS),
            "a number from 1 to 4294967295",
        ),
        max_dataset_bytes=value(
            "MAX_DATASET_BYTES", default.max_dataset_bytes, whole(1), "a number of bytes, 1 or more"
        ),
        quota_queued=value("QUOTA_QUEUED", default.quota_queued, whole(0), "a number of jobs, 0 for any"),
        log_level=value("LOG_LEVEL", default.log_level, log_level, LOG_LEVELS),
    )


def _roots(text: str) -> tuple[str, ...]:
    roots = [root.strip().removeprefix("file://") for root in text.split(",") if root.strip()]
    if not all("://" in root or Path(root).is_absolute() for root in roots):
        raise ValueError(text)
    return tuple(root.rstrip("/") if "://" in root else os.path.normpath(root) for root in roots)


def _store_url(text: str) -> str:
    """Make a folder absolute, because records name files in it to processes with another working directory."""
    return text if "://" in text else str(Path(text).resolve())
