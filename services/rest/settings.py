"""Read the service's settings once into one frozen value; errors name the wrong one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from services.variables import LOG_LEVELS, BadSetting, address, log_level, parsed, secret, whole
from turnloom.transport.calls import Tls, host_and_port

T = TypeVar("T")
PREFIX: Final = "TURNLOOM_REST_"


@dataclass(frozen=True, slots=True)
class RestSettings:
    """Settings of `python -m services.rest`."""

    address: str = "127.0.0.1:8088"  #: host:port of HTTP; port 0: a free one
    api: str = "127.0.0.1:50051"  #: host:port of the gRPC API
    api_tls: Tls | None = None  #: encryption towards the API; None: plain text
    files_url: str = ".turnloom/files"  #: fsspec URL or folder of uploaded files, shared by all copies
    max_file_bytes: int = 512 * 10**6  #: bytes of one upload, as OpenAI's
    threads: int = 48  #: requests that are worked on at once
    creations: int = 8  #: creations of jobs at once: each sends a training file
    tls_cert: Path | None = None  #: PEM of this server's certificate chain; with tls_key: HTTPS
    tls_key: Path | None = None  #: PEM of its key
    webhook_hosts: tuple[str, ...] = ()  #: HOST or HOST:PORT that may be told of jobs; none: webhooks are off
    webhook_secret: str = ""  #: from which the owners' signing secrets are made; empty: webhooks are off
    notify_token: str = ""  #: the notifier's own, with the scope read; empty: the API has no tokens
    wandb: Path | None = None  #: where the notifier's wandb keeps its files; None: nothing is mirrored
    log_level: str = "info"  #: least important lines of the log


def read_settings(environment: Mapping[str, str]) -> RestSettings:
    """Read TURNLOOM_REST_* variables; an unset or empty one takes its default.

    Raises:
        BadSetting: the first variable that can't be used.
    """
    if environment.get("TURNLOOM_TOKEN"):
        raise BadSetting(
            "TURNLOOM_TOKEN: is set, so requests without a token would borrow it; unset it, callers send their own"
        )
    default = RestSettings()

    def value(name: str, fallback: T, parse: Callable[[str], T], needed: str) -> T:
        text = environment.get(PREFIX + name, "")
        hidden = "URL" in name  # it may hold a password
        return parsed(PREFIX + name, text, parse, needed, hidden=hidden) if text else fallback

    return RestSettings(
        address=value("ADDRESS", default.address, address, "HOST:PORT"),
        api=value("API", environment.get("TURNLOOM_ADDRESS") or default.api, _known_port, "HOST:PORT of the API"),
        api_tls=_tls(environment),
        files_url=value("FILES_URL", str(Path(default.files_url).resolve()), _files_url, "a folder or an fsspec URL"),
        max_file_bytes=value("MAX_FILE_BYTES", default.max_file_bytes, whole(1), "a number of bytes, 1 or more"),
        threads=value("THREADS", default.threads, whole(1), "a number, 1 or more"),
        creations=value("CREATIONS", default.creations, whole(1), "a number, 1 or more"),
        tls_cert=value("TLS_CERT", default.tls_cert, Path, "a path"),
        tls_key=value("TLS_KEY", default.tls_key, Path, "a path"),
        webhook_hosts=value("WEBHOOK_HOSTS", default.webhook_hosts, _hosts, "HOST[:PORT] separated by commas"),
        webhook_secret=_secret(environment, "WEBHOOK_SECRET"),
        notify_token=_secret(environment, "NOTIFY_TOKEN"),
        wandb=value("WANDB", default.wandb, Path, "a folder"),
        log_level=value("LOG_LEVEL", default.log_level, log_level, LOG_LEVELS),
    )


def _known_port(text: str) -> str:
    if host_and_port(text) is None:
        raise ValueError(text)
    return text


def _tls(environment: Mapping[str, str]) -> Tls | None:
    """Return the encryption towards the API where TURNLOOM_REST_API_TLS is 1 or an authority is named."""
    names = ("API_TLS_CA", "API_TLS_CERT", "API_TLS_KEY")
    ca, certificate, key = (Path(text) if (text := environment.get(PREFIX + name)) else None for name in names)
    if environment.get(f"{PREFIX}API_TLS") == "1" or ca or certificate or key:
        return Tls(ca, certificate, key)
    return None


def _secret(environment: Mapping[str, str], name: str) -> str:
    return secret(environment, PREFIX + name)


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(host.strip().lower() for host in text.split(",") if host.strip())
    if any("/" in host or " " in host for host in hosts):
        raise ValueError(text)
    return hosts


def _files_url(text: str) -> str:
    return text.rstrip("/") if "://" in text else str(Path(text).resolve())
