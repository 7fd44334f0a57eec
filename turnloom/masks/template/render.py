"""A conversation through its chat template, with the origin of every character. Imports no tokenizer."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from turnloom.masks.domain.conversation import JSON, REASONING_FIELDS, Message
from turnloom.masks.domain.errors import TemplateLimit, TemplateRefused
from turnloom.masks.domain.rendered_text import Origin, RenderedText
from turnloom.masks.template.compiled import CompiledTemplate
from turnloom.masks.template.provenance.messages import traced_messages, traced_tools
from turnloom.masks.template.provenance.runs import Block, Generated
from turnloom.masks.template.provenance.strings import plain, runs_of


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
    """What the template prints, equal to plain Jinja character for character.

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
    """The same without provenance: the reference, and the text of generation prompts.

    Raises:
        TemplateRefused: as `render`.
    """
    named = with_reasoning_names(messages)
    return print_with(template.plain.render, named, tools, settings, add_generation_prompt)


def with_reasoning_names(messages: Sequence[Message]) -> list[Message]:
    """Messages whose reasoning can be read under the names templates use, as transformers 5 hands them on.

    The first of REASONING_FIELDS that is given becomes `reasoning_content`, and `thinking` where that is not given.
    """
    named = []
    for message in messages:
        given = next((message[name] for name in REASONING_FIELDS if message.get(name) is not None), None)
        named.append(message if given is None else {"thinking": given, **message, "reasoning_content": given})
    return named


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

    def strftime_now(form: str) -> str:
        return datetime.datetime.combine(settings.date, datetime.time()).strftime(form)

    variables: dict[str, Any] = {**settings.special_tokens, "strftime_now": strftime_now, **settings.kwargs}
    variables |= {
        "messages": messages,
        "tools": tools,
        "documents": settings.kwargs.get("documents"),
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        return print_(variables)
    except MemoryError as error:
        raise TemplateLimit("the chat template needs more memory than there is") from error
    except Exception as error:  # whatever a template raises is the template's refusal
        words = str(error) or type(error).__name__
        raise TemplateRefused(f"the chat template refuses this conversation: {words}") from error


def _finished(text: str) -> RenderedText:
    """Runs with equal neighbours joined, and the marks of generation blocks turned into positions."""
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
