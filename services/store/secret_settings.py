"""Read settings that hold secrets from the environment or from a file, and never show them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from redis.connection import parse_url

REDIS_URL_TAKES: Final = (
    "redis://USER:PASSWORD@HOST:PORT/DB, rediss:// or unix://, with special characters of the password percent-encoded"
)


def secret(environment: Mapping[str, str], name: str) -> str:
    """Return the value of `name`, or the text of the file that `name`_FILE names (container secrets); empty: neither.

    Raises:
        ValueError: both are set, or the file can't be read; the sentence shows no value.
    """
    value, path = environment.get(name, ""), environment.get(f"{name}_FILE", "")
    if not path:
        return value
    if value:
        raise ValueError(f"{name} and {name}_FILE are both set; set one")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(f"{name}_FILE: {path} can't be read ({said})") from None


def redis_url(text: str) -> str:
    """Return a URL that redis-py understands, unchanged.

    Raises:
        ValueError: it is something else. Its words are ours: the library's may quote the password.
    """
    try:
        parse_url(text)  # type: ignore[no-untyped-call]  # redis-py has no types here
    except ValueError:
        raise ValueError("no URL of Redis") from None
    return text
