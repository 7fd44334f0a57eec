"""Bound how long an object store may stay silent: every request has a deadline, whoever sends it.

Importing this module puts classes of ours behind s3:// and http(s):// URLs of this process. So datasets' sources,
uploads and the store itself share their time-outs. The classes are imported with the first such URL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import fsspec
from fsspec.registry import known_implementations

CONNECT_SECONDS: Final = 5.0  #: for a connection
READ_SECONDS: Final = 30.0  #: between two pieces of an answer
ANSWER_SECONDS: Final = 60.0  #: for a request with all its repetitions, in addition to its bytes
#: The same for what a store works on before it answers: joining the parts of an upload, copying a file.
WORK_SECONDS: Final = 600.0
SLOWEST: Final = 1 << 19  #: bytes per second of the slowest upload that is waited for

_OURS: Final = {
    "s3": "services.store.blobs.s3.Bucket",
    "s3a": "services.store.blobs.s3.Bucket",
    "http": "services.store.blobs.web.Web",
    "https": "services.store.blobs.web.Web",
}
_answer_seconds: ContextVar[float] = ContextVar("answer_seconds", default=ANSWER_SECONDS)


@contextmanager
def answers_within(seconds: float) -> Iterator[None]:
    """Set another limit than ANSWER_SECONDS for requests of this block, for callers that are waited for themselves."""
    token = _answer_seconds.set(seconds)
    try:
        yield
    finally:
        _answer_seconds.reset(token)


def limit(size: int, *, works: bool = False) -> float:
    """Return the seconds that a request may take.

    Args:
        size: bytes that it sends, those that share the line with it included.
        works: the store works on it before it answers.
    """
    seconds = _answer_seconds.get()
    return (max(seconds, WORK_SECONDS) if works else seconds) + size / SLOWEST


class NoAnswer(ConnectionError):
    """A store took a request and stayed silent. No TimeoutError: fsspec would drop its message."""


for _protocol, _name in _OURS.items():
    fsspec.register_implementation(_protocol, _name, clobber=True, errtxt=known_implementations[_protocol]["err"])
