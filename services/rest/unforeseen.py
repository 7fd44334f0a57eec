"""Answer unexpected errors with an id that the log has too. The error's own words stay out of both."""

from __future__ import annotations

import logging
import math
import secrets
import traceback

from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.rest.problems import Problem

LOG = logging.getLogger("turnloom.rest")


class BrokenOff(Exception):
    """Closes a connection whose answer can't be finished, so that no client takes half of it for the whole."""


def answer(problem: Problem) -> JSONResponse:
    """Return the response of a problem."""
    headers = {"Retry-After": str(math.ceil(problem.retry_after))} if problem.retry_after else None
    return JSONResponse(problem.body(), problem.status, headers)


class Unforeseen:
    """ASGI middleware that catches unexpected errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102  # ASGI's
        began = False

        async def sending(message: Message) -> None:
            nonlocal began
            began = began or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            return
        except Problem as problem:
            if began:
                raise BrokenOff from None
            await answer(problem)(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            identity = _log(scope["method"], error)
            if began:
                raise BrokenOff from None
            sentence = f"The service met an error that it did not foresee (error id {identity}); its log says where."
            await answer(Problem(500, sentence, kind="server_error", code="internal"))(scope, receive, send)


def _log(method: str, error: Exception) -> str:
    """Log class and place, for the words may quote a conversation; return the id of the error."""
    identity = secrets.token_hex(6)
    place = traceback.extract_tb(error.__traceback__)[-1]
    LOG.error(
        "%s failed: %s at %s:%s (error id %s)", method, type(error).__name__, place.filename, place.lineno, identity
    )
    return identity
