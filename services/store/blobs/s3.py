"""Talk to S3 with a deadline for each request.

The read time-out of aiohttp is not enough. It does not run while a request waits for `100 Continue`, and a second such
line stops it. A bucket that takes uploads and stays silent would be waited for for ever.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable
from typing import Any, Final

from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from services.store.blobs.deadlines import CONNECT_SECONDS, READ_SECONDS, NoAnswer, limit

PART: Final = 8 << 20  #: bytes of an upload's part: a silent store is noticed after the parts under way
MOST_PARTS: Final = 9_000  #: S3 takes 10,000
AT_ONCE: Final = 4  #: parts under way together
#: s3fs's options where FSSPEC_S3 or a caller names no other.
CONFIG: Final = {
    "connect_timeout": CONNECT_SECONDS,
    "read_timeout": READ_SECONDS,
    "retries": {"mode": "standard", "max_attempts": 2},
}
_WORKED_ON: Final = frozenset({"complete_multipart_upload", "copy_object", "upload_part_copy", "delete_objects"})


class Bucket(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs, but every request ends in time. What fsspec calls is documented there."""

    retries = 2  #: for answers that break off in the middle

    def __init__(self, *args: Any, **options: Any) -> None:
        """Take s3fs's options; those of CONFIG stand in for what is left out."""
        options["config_kwargs"] = CONFIG | (options.get("config_kwargs") or {})
        options.setdefault("use_listings_cache", False)  # other machines write there, too
        options.setdefault("max_concurrency", AT_ONCE)
        super().__init__(*args, **options)

    async def _call_s3(self, method: str, *args: Any, **parameters: Any) -> Any:
        """Send one request; all requests of s3fs pass here."""
        body = parameters.get("Body", b"")
        sent = len(body) if isinstance(body, (bytes, bytearray, memoryview)) else 0
        sharing = self.max_concurrency if method == "upload_part" else 1
        seconds = limit(sent * sharing, works=method in _WORKED_ON)
        try:
            async with asyncio.timeout(seconds) as deadline:
                return await super()._call_s3(method, *args, **parameters)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise NoAnswer(f"no answer to {method} within {seconds:.0f} s") from error

    call_s3 = sync_wrapper(_call_s3)  # what open files call; s3fs's own would pass the deadline by

    async def _put_file(self, source: str, target: str, *args: Any, **options: Any) -> None:
        """Upload a file, a large one in parts that are small enough to be missed soon."""
        options.setdefault("chunksize", part_size(source))
        await super()._put_file(source, target, *args, **options)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        if mode == "rb":
            file.cache.fetcher = _telling(file.cache.fetcher)
        return file


def part_size(source: str) -> int:
    """Return the bytes of each part of a file's upload: PART, or more where S3 would not take so many."""
    return max(PART, math.ceil(os.path.getsize(source) / MOST_PARTS))


def _telling(fetch: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
    """Return `fetch` with an error that can be understood where an answer stops in the middle."""

    def fetched(start: int, end: int) -> bytes:
        try:
            return fetch(start, end)
        except IndexError:  # s3fs looks for an error's number, and fsspec's time-out has none
            raise NoAnswer("an answer stopped in the middle") from None

    return fetched
