"""The API's settings: read once by __main__ into one frozen value that names what is wrong. Connects to nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class BadSetting(ValueError):
    """A setting can't be used; the sentence names it, its value and what is taken."""


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Everything that `python -m services.preprocess` can be told."""

    address: str = "127.0.0.1:50051"  #: host:port of gRPC; port 0: a free one
    models: Path = Path("models.toml")  #: which models are served
    model_cache: Path = Path(".turnloom/models")  #: where sources that are not prepared folders are prepared to
    redis_url: str = "redis://127.0.0.1:6379/0"
    store_url: str = ".turnloom/store"  #: fsspec URL or a local folder
    metrics_address: str = "127.0.0.1"
    metrics_port: int = 9464  #: 0: none; -1: a free one
    reflection: bool = False
    threads: int = 64  #: handler threads, >= 4; half of them may hold streams
    drain_seconds: float = 20.0  #: what SIGTERM grants to running calls
    idle_seconds: float = 300.0  #: after which a stream that sends nothing is ended
    source_roots: tuple[str, ...] = ()  #: absolute folders and fsspec URLs below which named sources may lie
    shard_lease: float = 15.0  #: seconds after which a silent worker has lost its shard of a dataset
    log_level: str = "info"

    @property
    def max_streams(self) -> int:
        """Long calls at once."""
        return self.threads // 2


def read_settings(environment: Mapping[str, str]) -> ApiSettings:
    """Settings from TURNLOOM_* variables; an unset or empty one takes its default.

    Raises:
        BadSetting: the first variable that can't be used.
    """
    default = ApiSettings()

    def value(name: str, fallback: T, parse: Callable[[str], T], needed: str) -> T:
        text = environment.get(f"TURNLOOM_{name}", "")
        if not text:
            return fallback
        try:
            return parse(text)
        except (ValueError, KeyError) as error:
            shown = "its value" if "URL" in name else repr(text)  # a URL may hold a password
            raise BadSetting(f"TURNLOOM_{name} can't be {shown}: {needed} is needed.") from error

    return ApiSettings(
        address=value("ADDRESS", default.address, parse_address, "HOST:PORT"),
        models=value("MODELS", default.models, Path, "a path"),
        model_cache=value("MODEL_CACHE", default.model_cache, Path, "a path"),
        redis_url=value("REDIS_URL", default.redis_url, _redis_url, "redis://HOST:PORT/DB, rediss:// or unix://"),
        store_url=value("STORE_URL", str(Path(default.store_url).resolve()), _store_url, "a folder or an fsspec URL"),
        metrics_address=value("METRICS_ADDRESS", default.metrics_address, str, "an address"),
        metrics_port=value("METRICS_PORT", default.metrics_port, _metrics_port, "a port, 0 (off) or -1 (a free one)"),
        reflection=value("REFLECTION", default.reflection, {"0": False, "1": True}.__getitem__, "0 or 1"),
        threads=value("THREADS", default.threads, _threads, "a number from 4 to 1000"),
        drain_seconds=value("DRAIN_SECONDS", default.drain_seconds, _seconds, "a number of seconds from 0 to 3600"),
        idle_seconds=value("IDLE_SECONDS", default.idle_seconds, _idle, "a number of seconds from 1 to 86400"),
        source_roots=value(
            "SOURCE_ROOTS", default.source_roots, _roots, "absolute folders and URLs separated by commas"
        ),
        shard_lease=value("SHARD_LEASE", default.shard_lease, _lease, "a number of seconds from 0.1 to 3600"),
        log_level=value("LOG_LEVEL", default.log_level, _level, "debug, info, warning or error"),
    )


def parse_address(text: str) -> str:
    """HOST:PORT, unchanged.

    Raises:
        ValueError: it is something else.
    """
    host, _, port = text.rpartition(":")
    if not host or not 0 <= int(port) <= 65535:
        raise ValueError(text)
    return text


def _redis_url(text: str) -> str:
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("scheme")
    return text


def _metrics_port(text: str) -> int:
    if not -1 <= int(text) <= 65535:
        raise ValueError(text)
    return int(text)


def _threads(text: str) -> int:
    if not 4 <= int(text) <= 1000:
        raise ValueError(text)
    return int(text)


def _seconds(text: str) -> float:
    if not 0 <= float(text) <= 3600:
        raise ValueError(text)
    return float(text)


def _idle(text: str) -> float:
    if not 1 <= float(text) <= 86_400:
        raise ValueError(text)
    return float(text)


def _lease(text: str) -> float:
    if not 0.1 <= float(text) <= 3600:
        raise ValueError(text)
    return float(text)


def _roots(text: str) -> tuple[str, ...]:
    roots = [root.strip().removeprefix("file://") for root in text.split(",") if root.strip()]
    if not all("://" in root or Path(root).is_absolute() for root in roots):
        raise ValueError(text)
    return tuple(root.rstrip("/") if "://" in root else os.path.normpath(root) for root in roots)


def _level(text: str) -> str:
    if text.upper() not in logging.getLevelNamesMapping():
        raise ValueError(text)
    return text.lower()


def _store_url(text: str) -> str:
    """A folder becomes absolute, for records name files in it to processes with another working directory."""
    return text if "://" in text else str(Path(text).resolve())
