"""Locate where the last turn of a render begins and ends, by the inference definition.

A reply begins where the prompt that a sampler is given ends: render(messages before it, add_generation_prompt=True). It
ends with what the template prints after it whatever follows. That is the common beginning of the render that ends there
and of one in which another message follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from turnloom.masks.domain.conversation import Message
from turnloom.masks.domain.errors import Interleaved, TemplateRefused, UnlocatableTurn
from turnloom.masks.domain.options import GenerationPrefill
from turnloom.masks.domain.rendered_text import Origin, RenderedText
from turnloom.masks.template.added_token_text import AddedTokenFinder
from turnloom.masks.template.prompts import PLAIN_REPLY, PROBE, VARIANTS, Chat, common_length
from turnloom.masks.turns.next_header import unclosed
from turnloom.masks.turns.turn_end import end_of_turn


class Turn(NamedTuple):
    """Bounds of one turn, in characters of the text it was found in; a tuple, since thousands are made a second."""

    start: int  #: after the generation prompt
    eot_start: int
    end: int
    located_by: str
    prompt: str  #: the literal that ends the prompt: what add_generation_prompt appends, "" where it appends nothing
    warnings: tuple[str, ...] = ()
    #: what candidate prompts go on with after the literals before the turn: bounds depend on whether its text begins so
    prefills: tuple[str, ...] = ()
    spliced: bool = (
        False  #: the messages before it are rendered otherwise where it follows: it belongs after its prompt
    )


@dataclass(frozen=True, slots=True)
class _Begin:
    position: int
    located_by: str
    prompt: str
    warnings: tuple[str, ...] = ()
    spliced: bool = False


def last_turn(chat: Chat, messages: Sequence[Message], rendered: RenderedText) -> Turn:
    """Return the bounds of the last message of `messages`, which `rendered` shows in whole.

    Raises:
        UnlocatableTurn: start or end can't be told.
    """
    index = len(messages) - 1
    before, first, last = _extent(rendered, index)
    prompts = _prompts(chat, messages[:-1])
    try:
        begin = _begin(chat, messages, rendered.text, before, first, prompts)
    except UnlocatableTurn as refusal:
        spliced = _spliced(chat, messages, rendered, before, first)
        if spliced is None:
            raise refusal from None
        begin = spliced
    eot_start, end, closed = end_of_turn(chat, messages, rendered.text, max(last, begin.position))
    warnings = begin.warnings
    if not closed:
        warnings += (unclosed(index),)
    how = f"{begin.located_by}/{'eot' if closed else 'content'}"
    prefills: tuple[str, ...] = ()
    if first is not None:
        head = rendered.text[:first]
        prefills = tuple(p[first:] for p in prompts if p is not None and len(p) > first and p.startswith(head))
    return Turn(begin.position, eot_start, end, how, begin.prompt, warnings, prefills, begin.spliced)


def _spliced(
    chat: Chat, messages: Sequence[Message], rendered: RenderedText, before: int, first: int | None
) -> _Begin | None:
    """Return where a turn begins after the end of its prompt, though earlier messages render otherwise; or None.

    The literal after the last text of a prompt ends it. The turn may follow that text, and the literal after it may
    begin so, too. Then a sampler that is given the prompt goes on with what follows there.
    """
    try:
        prompt = chat.renders.traced(messages[:-1], prompt=True)
    except TemplateRefused:
        return None
    closing, last = _closing(prompt, len(prompt.text))
    _, shown = _closing(rendered, len(rendered.text) if first is None else first)
    gap = rendered.text[before : len(rendered.text) if first is None else first]
    if not closing.strip() or last is None or last != shown or not gap.startswith(closing):
        return None
    if not _telling(chat.control, closing) or chat.control.floor(gap, len(closing)) != len(closing):
        return None
    return _Begin(before + len(closing), "spliced", closing, spliced=True)


def _closing(rendered: RenderedText, end: int) -> tuple[str, Origin | None]:
    """Return the literal before a position, and the origin of the text before that."""
    position, start, last = 0, 0, None
    for length, origin in rendered.runs:
        if position >= end:
            break
        position += length
        if origin is not None:
            start, last = position, origin
    return rendered.text[start:end], last


def _prompts(chat: Chat, history: Sequence[Message]) -> list[str | None]:
    """Return the prompt under the given settings, then under each variant where the longest is asked for."""
    variants = VARIANTS if chat.prefill is GenerationPrefill.LONGEST else ()
    return [
        chat.text(history, prompt=True),
        *(chat.text(history, prompt=True, **variant) for variant in variants),
    ]


def _extent(rendered: RenderedText, index: int) -> tuple[int, int | None, int]:
    """Return (end of other messages' text before it, its first character or None, end of its last character)."""
    before = last = position = 0
    first: int | None = None
    for length, origin in rendered.runs:
        if origin is not None:
            if origin.message_index == index:
                first = position if first is None else first
                last = position + length
            elif first is None:
                before = position + length
            else:
                raise Interleaved("text of another message follows inside this turn", message_index=index)
        position += length
    return before, first, max(last, before)


def _begin(
    chat: Chat,
    messages: Sequence[Message],
    text: str,
    before: int,
    first: int | None,
    prompts: Sequence[str | None],
) -> _Begin:
    index = len(messages) - 1
    history = messages[:-1]
    prompt, known = prompts[0], chat.known
    if (
        chat.prefill is GenerationPrefill.DEFAULT
        and prompt is not None
        and known.appended
        and before <= len(prompt) - len(known.appended)
        and prompt.endswith(known.appended)
        and text.startswith(prompt)
    ):
        return _Begin(len(prompt), "generation_prompt", known.appended)
    bare = chat.text(history)
    appended = _appended(bare, prompt)
    if chat.prefill is GenerationPrefill.LONGEST:
        prompt = max((p for p in prompts if p is not None and text.startswith(p)), key=len, default=prompt)
    elif chat.prefill is GenerationPrefill.NONE and bare is not None and appended:
        header = appended[: chat.control.floor(appended, _shared_header(chat, history, bare, appended))]
        if header.strip() and text.startswith(bare + header):
            return _Begin(len(bare + header), "role_header", header)
    if prompt is not None and before <= len(prompt) and text.startswith(prompt):
        known.appended = appended if appended.strip() else known.appended
        return _Begin(len(prompt), "generation_prompt" if appended.strip() else "prompt", appended)
    gap_end = len(text) if first is None else first
    shared = 0 if prompt is None else common_length(prompt, text)
    if prompt is not None and before <= shared <= gap_end and prompt[shared:].isspace():
        position, header = shared, prompt[before:shared]
    else:
        if not appended.strip():
            appended = _appended(chat.text([PROBE]), chat.text([PROBE], prompt=True))
        position, header = _header(chat.control, text[before:gap_end], appended)
        if bare is not None and header.strip() != appended.strip():
            begun = _cut_back(chat, history, bare, appended, header)
            position, header = position - len(header) + len(begun), begun
        position += before
    changed = prompt is not None and not _begins_with(prompt[shared:], text[shared:position])
    if not header or changed:
        raise UnlocatableTurn(
            "the template renders the messages before this turn differently when it follows, so no prompt ends where it"
            " begins"
            if changed or (prompt is not None and shared < before)
            else "the template prints no generation prompt or role before this turn, so its start can't be told",
            message_index=index,
        )
    warning = f"messages[{index}]: {_without_prompt(prompt, header, appended)}"
    return _Begin(position, "header", header, (warning,))


def _without_prompt(prompt: str | None, header: str, appended: str) -> str:
    """Return the warning that a turn is told by its header, because no prompt ends where it begins."""
    if prompt is None:
        return f"the template renders no prompt before this turn; it counts from {header!r} on"
    if header == appended:
        return f"the template prints other white space before {header!r} with this turn than without it"
    return (
        f"the template does not render this turn after its own generation prompt {appended!r}; it counts from"
        f" {header!r} on"
    )


def _header(control: AddedTokenFinder, gap: str, appended: str) -> tuple[int, str]:
    """Return (end of the header in the gap, what the gap has of the generation prompt, "" where nothing)."""
    for header in (appended, appended.lstrip()):
        for length in _cuts(control, header):
            at = gap.rfind(header[:length])
            after = at + length
            if at >= 0 and control.floor(gap, after) == after and not gap[after : after + 1].isalnum():
                return after, header[:length]
    return 0, ""


def _cut_back(chat: Chat, history: Sequence[Message], bare: str, appended: str, header: str) -> str:
    """Return the role header alone, where the turn shares more than that with its prompt and then leaves it.

    A prompt that opens thinking and closes it at once shares `<think>` with a turn that thinks. A model that was given
    the one never writes the other, and a start after `<think>` would belong to neither.
    """
    role = appended[: chat.control.floor(appended, _shared_header(chat, history, bare, appended))]
    for begun in (role, role.lstrip()):
        if begun.strip() and _telling(chat.control, begun) and header.startswith(begun):
            return begun
    return header


def _begins_with(prompt: str, text: str) -> bool:
    """Whether a prompt begins with a text, white space aside: only there may it differ from what follows it."""
    prompt, text = prompt.lstrip(), text.lstrip()
    if text and text[0] != prompt[:1]:
        return False  # as most that differ do, and all that stands behind need not be looked at
    return "".join(prompt.split()).startswith("".join(text.split()))


def _appended(bare: str | None, prompt: str | None) -> str:
    """Return what add_generation_prompt appends."""
    if bare is None or prompt is None:
        return ""
    return prompt[common_length(bare, prompt) :]


def _shared_header(chat: Chat, history: Sequence[Message], bare: str, appended: str) -> int:
    """Count the characters of the generation prompt that all its variants and an earlier plain turn begin with."""
    shared = len(appended)
    for variant in VARIANTS:
        if not variant.keys() <= chat.template.variables:
            variant = {}  # noqa: PLW2901  # it changes nothing
        other = _appended(chat.text(history, prompt=False, **variant), chat.text(history, prompt=True, **variant))
        if other:
            shared = min(shared, common_length(appended, other))
    earlier = chat.text([*history, PLAIN_REPLY, PROBE])
    if earlier is not None and earlier.startswith(bare):
        shared = min(shared, common_length(appended, earlier[len(bare) :]))
    return shared


def _cuts(control: AddedTokenFinder, header: str) -> Iterator[int]:
    """Yield the lengths of header prefixes that cut no token and no word, longest first, without blank ones."""
    for length in range(len(header), 0, -1):
        if header[:length].strip() and control.floor(header, length) == length and _telling(control, header[:length]):
            yield length


def _telling(control: AddedTokenFinder, header: str) -> bool:
    """Whether a beginning names a role: it holds a word outside added tokens, or is one whole added token."""
    return control.last(header) is not None or any(character.isalpha() for character in header)
