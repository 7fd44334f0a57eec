"""What every client resource shares: its connection, deadlines, pages, and renamed methods."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, Self, TypeAlias, TypeVar, overload

from turnloom.foreign.json_text import JSON
from turnloom.transport.calls import Connection
from turnloom.v1 import types_pb2 as ty

if TYPE_CHECKING:
    from turnloom.wire.batches import Batch

CALL_SECONDS: Final = 30.0  #: deadline of a question with a short answer
WORK_SECONDS: Final = 120.0  #: deadline of a call that computes, or that a GPU host answers (it gets 60 s itself)
TRANSFER_SECONDS: Final = 3600.0  #: deadline of a stream of data

Conversations: TypeAlias = Iterable[ty.Conversation | Mapping[str, JSON]]
P = ParamSpec("P")
T = TypeVar("T")


class Renamed(Generic[P, T]):
    """A method name from release 0.1: it warns and calls the method that replaces it.

    They stay for release 0.2; delete this class and its uses after it.
    """

    def __init__(self, resource: str, method: Callable[Concatenate[Any, P], T]) -> None:
        """Point to a method.

        Args:
            resource: attribute of the client that has the method; "": the object itself.
            method: as its class defines it; looked up by name, so that subclasses can override it.
        """
        self.resource = resource
        self.method = method
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, T]: ...
    def __get__(self, instance: object | None, owner: type) -> Self | Callable[P, T]:
        if instance is None:
            return self
        resource = self.resource or owner.__name__.lower()
        old = self._name if self.resource else resource
        new: Callable[P, T] = getattr(
            getattr(instance, self.resource) if self.resource else instance, self.method.__name__
        )

        @functools.wraps(new)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            warnings.warn(
                f"client.{old}() is deprecated; call client.{resource}.{self.method.__name__}().",
                DeprecationWarning,
                stacklevel=2,
            )
            return new(*args, **kwargs)

        return call


class Resource:
    """One noun of the contract; made by TurnloomClient."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection


def batch_of(message: ty.TokenBatch) -> Batch:
    """Return the rows of an answer; importing numpy (0.1 s) waits until the first call."""
    from turnloom.wire.batches import Batch as Rows  # noqa: PLC0415

    return Rows(message)


def pages(page: Callable[[str], tuple[Iterable[T], str]]) -> Iterator[T]:
    """Yield the items of all pages, requesting the next page when the current one is used up."""
    items, token = page("")
    yield from items
    while token:
        items, token = page(token)
        yield from items
