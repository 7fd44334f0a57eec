"""Split conversations into chunks for a request stream; errors while reading them reach the caller."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Generic, TypeVar

from turnloom.foreign.columns import BESIDE, UnusedColumns, unused_sentence
from turnloom.foreign.json_text import JSON
from turnloom.v1 import types_pb2
from turnloom.wire.conversations import from_json

CHUNK_BYTES: Final = 1024 * 1024  #: a chunk is sent when it has become this large
CHUNK_CONVERSATIONS: Final = 256  #: or holds this many

#: Keys of a conversation that somebody reads.
_READ: Final = BESIDE | {"messages", "tools", "id"}

T = TypeVar("T")


def as_messages(
    conversations: Iterable[types_pb2.Conversation | Mapping[str, JSON]],
) -> Iterator[types_pb2.Conversation]:
    """Convert plain dictionaries as JSON files are; messages pass unchanged. A warning names keys that nobody reads.

    Raises:
        InvalidInput: names the position and the field.
    """
    unused = UnusedColumns(_READ)
    for index, conversation in enumerate(conversations):
        if isinstance(conversation, types_pb2.Conversation):
            yield conversation
        else:
            yield from_json(conversation, f"conversations[{index}]")
            unused.add(conversation)
    if unused.names:
        warnings.warn(unused_sentence(unused.names), stacklevel=2)


def chunks(conversations: Iterable[types_pb2.Conversation]) -> Iterator[list[types_pb2.Conversation]]:
    """Yield up to 256 conversations or about 1 MiB at a time, in order."""
    return (chunk for _, chunk in numbered_chunks(enumerate(conversations)))


def numbered_chunks(
    conversations: Iterable[tuple[int, types_pb2.Conversation]],
) -> Iterator[tuple[int, list[types_pb2.Conversation]]]:
    """Yield chunks as above, each with the number of its first; a chunk ends where a number is left out."""
    chunk: list[types_pb2.Conversation] = []
    first = size = 0
    for number, conversation in conversations:
        length = conversation.ByteSize()
        full = size + length > CHUNK_BYTES or len(chunk) == CHUNK_CONVERSATIONS
        if chunk and (full or number != first + len(chunk)):
            yield first, chunk
            chunk, size = [], 0
        first = first if chunk else number
        chunk.append(conversation)
        size += length
    if chunk:
        yield first, chunk


class Upload(Generic[T]):
    """A request stream that cancels its call when reading fails, so that no half stream counts as whole.

    gRPC reads it in its own thread; the caller finds the error in `error`.
    """

    def __init__(self, requests: Iterable[T]) -> None:
        self._requests = requests
        self._cancel: Callable[[], object] = lambda: None
        self._bound = threading.Event()
        self.error: Exception | None = None

    def bind(self, cancel: Callable[[], object]) -> None:
        """Set how to cancel the call; the error path waits for this."""
        self._cancel = cancel
        self._bound.set()

    def __iter__(self) -> Iterator[T]:
        try:
            yield from self._requests
        except Exception as error:  # calls.py raises it again in the caller's thread
            self.error = error
            self._bound.wait()
            self._cancel()  # cancel before the iterator ends, or gRPC would tell the server that the stream is complete
