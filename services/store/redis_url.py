"""Check an address of Redis without ever showing its password."""

from __future__ import annotations

from typing import Final

from redis.connection import parse_url

REDIS_URL_TAKES: Final = (
    "redis://USER:PASSWORD@HOST:PORT/DB, rediss:// or unix://, with special characters of the password percent-encoded"
)


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
