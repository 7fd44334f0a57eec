"""Limit the size of requests, except uploads: their route counts for itself while it writes to the store."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.rest.problems import Problem
from services.rest.unforeseen import answer

MOST: Final = 16 << 20  #: bytes of a JSON body: a conversation that Turnloom takes is no longer
UPLOADS: Final = "/v1/files"


class BodyLimit:
    """ASGI middleware with the limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102  # ASGI's
        if scope["type"] != "http" or (scope["method"] == "POST" and scope["path"] == UPLOADS):
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > MOST:
            await answer(_too_large())(scope, receive, send)
            return
        came = 0

        async def counting() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > MOST:
                raise _too_large()
            return message

        await self._app(scope, counting, send)


def _too_large() -> Problem:
    return Problem(413, f"The body is larger than {MOST >> 20} MiB; send less at once.", code="request_too_large")
