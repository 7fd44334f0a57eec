"""Requests and answers of chat completions and of their older form. What has no effect here is refused, or named."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from services.rest.bodies import Request, taking

Finish: TypeAlias = Literal["stop", "length"]
Texts: TypeAlias = Annotated[str | list[str], taking("a text or a list of texts")]


class StreamOptions(Request):
    """What a stream says beside the reply."""

    include_usage: bool = False
    include_obfuscation: bool = False  #: without effect


class Sampling(Request):
    """What both forms share."""

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Texts | None = None
    n: Literal[1] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: dict[str, float] | None = Field(default=None, max_length=0)
    user: str | None = None  #: without effect

    @property
    def stops(self) -> list[str]:
        """Return the texts before which the reply ends."""
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in found if text]


class CreateChat(Sampling):
    """A conversation to answer."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    response_format: dict[str, Any] | None = None
    logprobs: Literal[False] | None = None
    parallel_tool_calls: bool | None = None  #: without effect: the reply is text
    metadata: dict[str, str] | None = None  #: without effect: nothing is stored
    store: Literal[False] | None = None


class CreateCompletion(Sampling):
    """A text to answer: it becomes the message of a user."""

    prompt: Texts
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None
    logprobs: None = None


class Usage(BaseModel):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(BaseModel):
    """The reply; a call of a tool stands in its text as the model wrote it."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One reply."""

    index: int = 0
    message: ChatMessage
    finish_reason: Finish
    logprobs: None = None


class ChatCompletion(BaseModel):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(BaseModel):
    """A piece of a reply."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """A piece of one reply."""

    index: int = 0
    delta: Delta
    finish_reason: Finish | None = None


class ChatChunk(BaseModel):
    """An event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class TextChoice(BaseModel):
    """One reply of the older form."""

    index: int
    text: str
    finish_reason: Finish | None
    logprobs: None = None


class Completion(BaseModel):
    """The answer to a text; in a stream a piece of it."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None
