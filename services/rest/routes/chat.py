"""/v1/chat/completions and /v1/completions: replies of a job's adapter, where its TuFT server samples."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.responses import Response

from services.rest import names
from services.rest.chat_bodies import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatMessage,
    ChunkChoice,
    Completion,
    CreateChat,
    CreateCompletion,
    Delta,
    Finish,
    Sampling,
    TextChoice,
    Usage,
)
from services.rest.gateway import Turnloom
from services.rest.problems import ClientLeft, Problem, invalid, problem_of
from services.rest.service import Caller, Parts, until_left
from turnloom.errors import InvalidArgument, InvalidInput
from turnloom.v1 import types_pb2 as ty
from turnloom.wire.conversations import from_json

ROUTER = APIRouter(tags=["chat"])
MOST_PROMPTS: Final = 16  #: of one request; they are answered one after the other


@dataclass(frozen=True, slots=True)
class Reply:
    """The adapter's reply."""

    text: str
    finish: Finish
    prompt_tokens: int
    tokens: int


@ROUTER.post("/chat/completions", response_model=ChatCompletion)
async def create_chat_completion(
    body: CreateChat, request: Request, parts: Parts, turnloom: Caller
) -> ChatCompletion | Response:
    """Answer a conversation. With stream the reply comes as server-sent events, once all of it is known."""
    if body.response_format not in (None, {"type": "text"}):
        raise invalid("response_format", "holds something else than text; send text.")
    conversation = _conversation(body)
    limit = body.max_completion_tokens or body.max_tokens or 0

    def work(_left: threading.Event) -> Reply:
        return _reply(turnloom, body, conversation, limit)

    reply = await until_left(request, parts.waiting, work)
    identity, created, usage = f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), _usage([reply])
    if not body.stream:
        choice = ChatChoice(message=ChatMessage(content=reply.text), finish_reason=reply.finish)
        return ChatCompletion(id=identity, created=created, model=body.model, choices=[choice], usage=usage)

    def chunk(delta: Delta, finish: Finish | None = None) -> ChatChunk:
        choices = [ChunkChoice(delta=delta, finish_reason=finish)]
        return ChatChunk(id=identity, created=created, model=body.model, choices=choices)

    events = [
        chunk(Delta(role="assistant", content="")),
        chunk(Delta(content=reply.text)),
        chunk(Delta(), reply.finish),
    ]
    if body.stream_options is not None and body.stream_options.include_usage:
        events.append(ChatChunk(id=identity, created=created, model=body.model, choices=[], usage=usage))
    return _events(events)


@ROUTER.post("/completions", response_model=Completion)
async def create_completion(
    body: CreateCompletion, request: Request, parts: Parts, turnloom: Caller
) -> Completion | Response:
    """Answer texts, each as the only message of a user."""
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        raise invalid("prompt", f"holds {len(prompts)} texts; send 1 to {MOST_PROMPTS}.")
    asked = [ty.Conversation(messages=[ty.Message(role="user", text=text)]) for text in prompts]

    def work(left: threading.Event) -> list[Reply]:
        replies = []
        for conversation in asked:
            if left.is_set():
                raise ClientLeft
            replies.append(_reply(turnloom, body, conversation, body.max_tokens or 0))
        return replies

    replies = await until_left(request, parts.waiting, work)
    choices = [TextChoice(index=i, text=one.text, finish_reason=one.finish) for i, one in enumerate(replies)]
    whole = Completion(
        id=f"cmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=body.model,
        choices=choices,
        usage=_usage(replies),
    )
    if not body.stream:
        return whole
    wanted = body.stream_options is not None and body.stream_options.include_usage
    ends = [whole.model_copy(update={"choices": []})] if wanted else []
    return _events([*(whole.model_copy(update={"choices": [one], "usage": None}) for one in choices), *ends])


def _conversation(body: CreateChat) -> ty.Conversation:
    document: dict[str, object] = {"messages": body.messages}
    if body.tools and body.tool_choice != "none":
        document["tools"] = body.tools
    try:
        return from_json(document)  # type: ignore[arg-type]  # parsed JSON
    except InvalidInput as error:
        raise invalid(
            error.field or "messages", f"{error.message.removeprefix(f'{error.field}: ')} {error.hint}".strip()
        ) from error


def _reply(turnloom: Turnloom, body: Sampling, conversation: ty.Conversation, limit: int) -> Reply:
    """Sample the model's adapter; the reply ends before the first of the stop texts."""
    found = names.tuned(turnloom, body.model)
    checkpoint = ""
    if found.step is not None:
        saved = [one.id for one in turnloom.checkpoints(found.job.id) if one.step == found.step]
        if not saved:
            raise names.no_model(body.model)
        checkpoint = saved[-1]
    try:
        said = turnloom.sample(
            found.job.id,
            conversation,
            checkpoint=checkpoint,
            max_tokens=limit,
            temperature=body.temperature,
            top_p=body.top_p,
            seed=None if body.seed is None else body.seed % 2**32,
        )
    except InvalidArgument as error:
        raise in_callers_words(error, body) from error
    cuts = [position for text in body.stops if (position := said.text.find(text)) >= 0]
    finish: Finish = "stop" if cuts or said.finish_reason == "stop" else "length"
    return Reply(said.text[: min(cuts)] if cuts else said.text, finish, said.prompt_tokens, said.tokens)


def in_callers_words(error: InvalidArgument, body: Sampling) -> Problem:
    """Return the refusal of a sample with the field that the request has in place of SampleRequest.conversation."""
    problem = problem_of(error)
    if error.field.partition(".")[0] == "conversation":
        inner = error.field.removeprefix("conversation").removeprefix(".")
        problem.param = (inner or "messages") if isinstance(body, CreateChat) else "prompt"
        problem.message = problem.message.replace(error.field, problem.param, 1)
    return problem


def _usage(replies: Iterable[Reply]) -> Usage:
    pairs = [(reply.prompt_tokens, reply.tokens) for reply in replies]
    prompt, completion = (sum(column) for column in zip(*pairs, strict=True))
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _events(events: Iterable[BaseModel]) -> StreamingResponse:
    """Return server-sent events, with the line that ends OpenAI's streams."""

    async def written() -> AsyncIterator[str]:
        for event in events:
            yield f"data: {event.model_dump_json(exclude_none=True)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(written(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
