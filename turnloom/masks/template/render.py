"""Render a conversation through its chat template, with the origin of every character."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

from turnloom.masks.domain.conversation import JSON, REASONING_FIELDS, Message
from turnloom.masks.domain.errors import TemplateLimit, TemplateRefused
from turnloom.masks.domain.rendered_text import Origin, RenderedText
from turnloom.masks.template.calls import CALLS, Calls
from turnloom.masks.template.compiled import CompiledTemplate
from turnloom.masks.template.provenance.messages import traced_message, traced_messages, traced_tools
from turnloom.masks.template.provenance.runs import Block, Generated
from turnloom.masks.template.provenance.strings import plain, runs_of
from turnloom.masks.template.step_reads import MessageList
from turnloom.masks.template.steps import STEPS, Steps


@dataclass(frozen=True, slots=True)
class Settings:
    """What a template sees beside messages and tools."""

    date: datetime.date  #: what strftime_now formats, at midnight
    special_tokens: Mapping[str, str] = field(
        default_factory=dict
    )  #: bos_token, eos_token, ... as tokenizers name them
    kwargs: Mapping[str, JSON] = field(default_factory=dict)  #: chat_template_kwargs; they win over special tokens


def render(
    messages: Sequence[Message],
    tools: Sequence[JSON] | None,
    template: CompiledTemplate,
    settings: Settings,
    *,
    add_generation_prompt: bool = False,
) -> RenderedText:
    """Return what the template prints, equal to plain Jinja character for character.

    Raises:
        TemplateRefused: the template raised; its own words are in the message.
    """
    named = with_reasoning_names(messages)
    return _finished(
        print_with(template.traced.render, traced_messages(named), traced_tools(tools), settings, add_generation_prompt)
    )


def render_plain(
    messages: Sequence[Message],
    tools: Sequence[JSON] | None,
    template: CompiledTemplate,
    settings: Settings,
    *,
    add_generation_prompt: bool = False,
) -> str:
    """Render without provenance, for the reference and the text of generation prompts.

    Raises:
        TemplateRefused: as `render`.
    """
    named = with_reasoning_names(messages)
    return print_with(template.plain.render, named, tools, settings, add_generation_prompt)


def with_reasoning_names(messages: Sequence[Message]) -> list[Message]:
    """Return messages whose reasoning can be read under the names templates use, as transformers 5 hands them on.

    The first of REASONING_FIELDS that is given becomes `reasoning_content`, and `thinking` where that is not given.
    """
    named = []
    for message in messages:
        given = next((message[name] for name in REASONING_FIELDS if message.get(name) is not None), None)
        named.append(message if given is None else {"thinking": given, **message, "reasoning_content": given})
    return named


class Asked(NamedTuple):
    """One render of a conversation."""

    messages: Sequence[Message]
    prompt: bool  #: add_generation_prompt
    kwargs: Mapping[str, JSON]  #: beside those of the settings


#: Texts of so many messages at most are kept while their conversation is rendered.
KEPT_TEXTS: Final = 64


class Renders:
    """The renders of one conversation and of what it would be with other endings; a message is printed once.

    The messages given must live as long as this does: what is kept goes by the objects.
    """

    def __init__(self, template: CompiledTemplate, settings: Settings, tools: Sequence[JSON] | None) -> None:
        """Begin with nothing rendered."""
        self._template = template
        self._settings = settings
        self._tools = tools
        self._kept, self._traced_kept = ({STEPS: Steps(), CALLS: Calls()} for _ in range(2))
        self._copies: dict[tuple[int, int], tuple[Message, Message]] = {}  #: (id, index, or -1) -> message, its copy
        self._variables: dict[str, dict[str, Any]] = {}  #: by template kwargs beside the settings'
        self._texts: dict[tuple[object, ...], str | TemplateRefused] = {}
        self.asked: list[Asked] = []  #: what was rendered so far, each once

    def text(self, messages: Sequence[Message], *, prompt: bool = False, **kwargs: JSON) -> str:
        """Return what `render_plain` gives.

        Args:
            messages: of the conversation, or others.
            prompt: add_generation_prompt.
            kwargs: more chat_template_kwargs.

        Raises:
            TemplateRefused: the template raised.
        """
        key = (prompt, repr(kwargs) if kwargs else "", *map(id, messages))
        text = self._texts.get(key)
        if text is None:
            self.asked.append(Asked(messages, prompt, kwargs))
            named = MessageList([self._copy(message, -1) for message in messages])
            variables = self._given(kwargs) | self._kept
            try:
                text = print_given(self._template.plain_steps.render, variables, named, self._tools, prompt)
            except TemplateRefused as refusal:
                text = refusal
            if len(messages) <= KEPT_TEXTS:
                self._texts[key] = text
        if isinstance(text, TemplateRefused):
            raise text
        return text

    def traced(self, messages: Sequence[Message], *, prompt: bool = False) -> RenderedText:
        """Return what `render` gives.

        Raises:
            TemplateRefused: the template raised.
        """
        self.asked.append(Asked(messages, prompt, kwargs={}))
        copies = MessageList([self._copy(message, index) for index, message in enumerate(messages)])
        variables = self._given({}) | self._traced_kept
        print_ = self._template.traced_steps.render
        return _finished(print_given(print_, variables, copies, self._traced_tools, prompt))

    @cached_property
    def _traced_tools(self) -> list[JSON] | None:
        return traced_tools(self._tools)

    def _copy(self, message: Message, index: int) -> Message:
        kept = self._copies.get((id(message), index))
        if kept is None:
            (named,) = with_reasoning_names([message])
            copy = named if index < 0 else traced_message(named, index)
            kept = self._copies[id(message), index] = message, copy
        return kept[1]

    def _given(self, kwargs: Mapping[str, JSON]) -> dict[str, Any]:
        key = repr(kwargs)
        if key not in self._variables:
            settings = self._settings
            merged = replace(settings, kwargs={**settings.kwargs, **kwargs}) if kwargs else settings
            self._variables[key] = variables_of(merged)
        return self._variables[key]


def print_with(
    print_: Callable[..., str],
    messages: Sequence[Mapping[str, JSON]],
    tools: Sequence[JSON] | None,
    settings: Settings,
    add_generation_prompt: bool,
) -> str:
    """Call a compiled template with the variables that every template gets.

    Raises:
        TemplateRefused: the template raised.
    """
    return print_given(print_, variables_of(settings), messages, tools, add_generation_prompt)


def variables_of(settings: Settings) -> dict[str, Any]:
    """Return what a template gets beside messages, tools and add_generation_prompt."""

    def strftime_now(form: str) -> str:
        return datetime.datetime.combine(settings.date, datetime.time()).strftime(form)

    return {
        **settings.special_tokens,
        "strftime_now": strftime_now,
        **settings.kwargs,
        "documents": settings.kwargs.get("documents"),
    }


def print_given(
    print_: Callable[..., str],
    variables: Mapping[str, Any],
    messages: Sequence[Mapping[str, JSON]],
    tools: Sequence[JSON] | None,
    add_generation_prompt: bool,
) -> str:
    """Call a compiled template with variables that are made already.

    Raises:
        TemplateRefused: the template raised.
    """
    given = {**variables, "messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
    try:
        return print_(given)
    except MemoryError as error:
        raise TemplateLimit("the chat template needs more memory than there is") from error
    except Exception as error:  # whatever a template raises is the template's refusal
        # Python's words for endless recursion tell how deep the caller is.
        words = "maximum recursion depth exceeded" if isinstance(error, RecursionError) else str(error)
        words = words or type(error).__name__
        raise TemplateRefused(f"the chat template refuses this conversation: {words}") from error


def _finished(text: str) -> RenderedText:
    """Join neighbouring runs of equal origin, and turn the marks of generation blocks into positions."""
    runs: list[tuple[int, Origin | None]] = []
    blocks: dict[Block, list[int]] = {}
    last: Origin | None = None
    pending = position = 0
    for length, tag in runs_of(text):
        if type(tag) is Generated:
            bounds = blocks.setdefault(tag.block, [position, position])
            bounds[1] = position + length
            origin = tag.origin
        else:
            origin = tag  # type: ignore[assignment]  # mypy can't narrow by type()
        if origin is last or origin == last:
            pending += length
        else:
            if pending:
                runs.append((pending, last))
            last, pending = origin, length
        position += length
    if pending:
        runs.append((pending, last))
    return RenderedText(plain(text), tuple(runs), tuple(sorted((start, end) for start, end in blocks.values())))
