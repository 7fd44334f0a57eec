"""The protocol of every client stream: one header first, then chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NoReturn, Protocol, TypeVar

from services.preprocess.domain.limits import MAX_BATCH
from services.preprocess.domain.refusals import InvalidRequest, TooLarge, Violation


class Payload(Protocol):
    """A message with the oneof `payload`."""

    def WhichOneof(self, oneof_group: Literal["payload"], /) -> str | None:  # noqa: N802  # protobuf's name
        """Return the name of the field that is set."""
        ...


M = TypeVar("M", bound=Payload)


@dataclass(frozen=True, slots=True)
class ChunkPlace:
    """The position of a chunk in the stream."""

    number: int  #: of the message, from 0; the header is 0
    kind: str  #: name of the field of the oneof

    def field(self, name: str) -> str:
        """Return the path of one of its fields, for violations."""
        return f"stream[{self.number}].{self.kind}.{name}"


def header(stream: Iterator[M], kind: str) -> M:
    """Return the first message, which must be the header.

    Raises:
        InvalidRequest: the stream is empty or begins with something else.
    """
    first = next(stream, None)
    found = None if first is None else first.WhichOneof("payload")
    if first is None or found != kind:
        said = "the stream is empty" if first is None else f"the stream begins with {found or 'an empty message'}"
        raise InvalidRequest([Violation(f"stream[0].{kind}", f"{said}; send {kind} as the first message.")])
    return first


def chunks(stream: Iterator[M], header_kind: str) -> Iterator[tuple[ChunkPlace, M]]:
    """Yield the messages after the header.

    Raises:
        InvalidRequest: a second header, or a message without payload.
    """
    for number, message in enumerate(stream, start=1):
        kind = message.WhichOneof("payload")
        if kind is None or kind == header_kind:
            said = "is empty" if kind is None else "is a second header"
            raise InvalidRequest(
                [Violation(f"stream[{number}].{header_kind}", f"{said}; send chunks after the first.")]
            )
        yield ChunkPlace(number, kind), message


def check_batch(count: int, field: str) -> None:
    """Refuse a request or chunk with no conversations or too many.

    Raises:
        InvalidRequest: none.
        TooLarge: too many.
    """
    sentence = f"holds {count} conversations; send 1 to {MAX_BATCH} at once."
    if count > MAX_BATCH:
        raise TooLarge(field, sentence)
    if not count:
        raise InvalidRequest([Violation(field, sentence)])


def refuse_endless() -> NoReturn:
    """Refuse a stream that stopped before its end marker: gRPC may show a broken stream as a complete one.

    Raises:
        InvalidRequest
    """
    raise InvalidRequest([Violation("end", "the stream stopped without it; send end as the last message.")])


def refuse_lost(said: int, seen: int, place: ChunkPlace) -> None:
    """Refuse a stream whose number of conversations differs from its sender's count.

    Raises:
        InvalidRequest
    """
    if said != seen:
        sentence = f"is {said}, but {seen} arrived; send all again."
        raise InvalidRequest([Violation(place.field("conversations"), sentence)])


def refuse_after_end(ended: bool, place: ChunkPlace) -> None:
    """Refuse anything after the end marker.

    Raises:
        InvalidRequest
    """
    if ended:
        raise InvalidRequest([Violation(f"stream[{place.number}].{place.kind}", "comes after end; send end last.")])
