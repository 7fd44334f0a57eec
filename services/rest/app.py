"""Assemble the service by hand: parts, routes, and one answer for every error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.to_thread import current_default_thread_limiter, run_sync
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from services.rest import problems
from services.rest.body_limit import BodyLimit
from services.rest.file_store import FileStore
from services.rest.gateway import Gateway
from services.rest.problems import ClientLeft, Problem
from services.rest.routes import chat, files, jobs, models, webhooks
from services.rest.service import Service
from services.rest.settings import RestSettings
from services.rest.unforeseen import LOG, Unforeseen, answer
from turnloom.errors import TurnloomError
from turnloom.plural import counted
from turnloom.version import VERSION

SWEEP_SECONDS = 3600.0
GONE = 499  #: status of an answer that nobody reads


def make_app(settings: RestSettings) -> FastAPI:
    """Return the app, which connects only at its first request and closes its connections at its end."""

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = settings.threads
        app.state.service = Service(
            settings=settings,
            gateway=Gateway(settings.api, settings.api_tls),
            files=FileStore(settings.files_url),
            creating=anyio.CapacityLimiter(settings.creations),
            waiting=anyio.CapacityLimiter(settings.threads),
        )
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_sweep, app.state.service.files)
                yield
                group.cancel_scope.cancel()
        finally:
            app.state.service.gateway.close()

    app = FastAPI(
        title="Turnloom, OpenAI-compatible",
        summary="Files, fine-tuning jobs, models and chat completions as OpenAI's clients ask for them.",
        version=VERSION,
        lifespan=living,
        redirect_slashes=False,
    )
    for router in (files.ROUTER, jobs.ROUTER, models.ROUTER, chat.ROUTER, webhooks.ROUTER):
        app.include_router(router, prefix="/v1")
    app.get("/health", include_in_schema=False)(_health)
    _answer_errors(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(Unforeseen)
    return app


async def _sweep(files: FileStore) -> None:
    """Remove expired files and unfinished uploads every hour; every copy of the service may do so."""
    while True:
        try:
            removed = await run_sync(files.sweep)
            LOG.info("removed %s that expired or never arrived", counted(removed, "file"))
        except Problem as error:
            LOG.warning("the file store could not be swept: %s", error.message)
        await anyio.sleep(SWEEP_SECONDS)


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    def of_problem(_request: Request, error: Problem) -> JSONResponse:
        return answer(error)

    @app.exception_handler(TurnloomError)
    def of_turnloom(_request: Request, error: TurnloomError) -> JSONResponse:
        return answer(problems.problem_of(error))

    @app.exception_handler(RequestValidationError)
    def of_validation(_request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(problems.of_validation(error))

    @app.exception_handler(HTTPException)
    def of_routing(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, Problem):  # met while the body was read
            return answer(error.__cause__)
        if error.status_code == problems.UNREAD:
            return answer(problems.unread_body())
        sentence = f"{request.method} {request.url.path}: {error.detail}; docs/openai.md lists the routes."
        return answer(Problem(error.status_code, sentence, code="unknown_url"))

    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(ClientLeft)
    def of_leaving(_request: Request, _error: Exception) -> JSONResponse:
        return answer(Problem(GONE, "The client left."))


def _health() -> dict[str, str]:
    """Answer load balancers. The API has a health check of its own."""
    return {"status": "ok"}
