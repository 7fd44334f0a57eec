"""Read http:// and https:// URLs with the time-outs of an object store."""

from __future__ import annotations

from typing import Any

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

from services.store.blobs.deadlines import CONNECT_SECONDS, READ_SECONDS


class Web(HTTPFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's, but silence ends after READ_SECONDS, and a long download does not end after five minutes."""

    def __init__(self, *args: Any, client_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        """Take fsspec's options; a time-out in client_kwargs goes before ours."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        super().__init__(*args, client_kwargs={"timeout": limits, **(client_kwargs or {})}, **options)
