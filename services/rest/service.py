"""What every route needs: the caller's Turnloom, the file store, threads for work that can be interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import anyio
from anyio.to_thread import run_sync
from fastapi import Depends, Request

from services.rest.file_store import FileStore
from services.rest.gateway import Gateway, Turnloom
from services.rest.problems import Problem
from services.rest.settings import RestSettings
from turnloom.transport.calls import sendable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of the service; all are thread-safe."""

    settings: RestSettings
    gateway: Gateway
    files: FileStore
    creating: anyio.CapacityLimiter  #: jobs that are being created, each with a file on its way
    waiting: anyio.CapacityLimiter  #: replies that are waited for, each for up to a minute


def service_of(request: Request) -> Service:
    """Return the parts that the app was made with."""
    found = request.app.state.service
    assert isinstance(found, Service)
    return found


def turnloom_of(request: Request) -> Turnloom:
    """Return the Turnloom of the request's bearer token, which Turnloom itself checks.

    Raises:
        Problem: the header is something else than a bearer token.
    """
    header = request.headers.get("authorization", "")
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if header and (scheme.lower() != "bearer" or not sendable(token) or " " in token):
        raise Problem(
            401, "Authorization: is not `Bearer TOKEN`; give the client a token as api_key.", code="invalid_api_key"
        )
    return service_of(request).gateway.of(token)


async def until_left(request: Request, limiter: anyio.CapacityLimiter, work: Callable[[threading.Event], T]) -> T:
    """Run `work` in a thread; its event is set when the client leaves. The body must have been read.

    Raises:
        Exception: what `work` raises.
    """
    left = threading.Event()
    outcome: list[T] = []
    failure: list[Exception] = []

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            outcome.append(await run_sync(work, left, limiter=limiter))
        except Exception as error:  # raised again below: a task group would wrap it
            failure.append(error)
        group.cancel_scope.cancel()
    if failure:
        raise failure[0]
    return outcome[0]


Parts = Annotated[Service, Depends(service_of)]
Caller = Annotated[Turnloom, Depends(turnloom_of)]
