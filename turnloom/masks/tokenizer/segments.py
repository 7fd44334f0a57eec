"""Cut a rendered text for an encoder: control tokens from trusted text, and segments of ordinary text between them.

Only two kinds of cut are made. One is at control tokens, which the template's own literals spell (and, for non-special
ones such as `<think>`, assistant text). The other is at the start of every assistant turn, trained or not. So the
prompt is tokenized as a sampler's prompt is, and the ids are the same whatever is trained.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, TypeAlias

from turnloom.masks.domain.errors import ControlTokenRejected, UnsupportedContent
from turnloom.masks.domain.example import ControlTokenSpan
from turnloom.masks.domain.options import ControlTokens
from turnloom.masks.domain.rendered_text import Origin, RenderedText
from turnloom.masks.tokenizer.control_tokens import ControlTokenTable, Match
from turnloom.masks.tokenizer.tokenizer_json import Prefix

#: An offset, and matches whose characters count from it.
Found: TypeAlias = "tuple[int, Sequence[Match]]"
TEXT: Final = -1  #: a slot that an encoder fills, where a control token's slot holds its id


@dataclass(slots=True)
class Segments:
    """The slots of one text, in order: a slot is a control token or a piece of ordinary text."""

    whole: str  #: the text
    utf8: bytes = b""  #: the same in UTF-8, which the ids must decode to; empty where that is not asked
    starts: list[int] = field(default_factory=list)  #: first character of each slot
    slots: list[int] = field(default_factory=list)  #: id of a control token, or TEXT
    texts: list[str] = field(default_factory=list)  #: of the TEXT slots, in order; none is empty
    prefixed: list[bool] = field(default_factory=list)  #: of the TEXT slots: the stock tokenizer puts a space before it
    escaped: list[ControlTokenSpan] = field(default_factory=list)  #: control tokens spelled where they don't count
    #: its first pieces are those of another text of the conversation, the same objects
    shares: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class CutRules:
    """What of a tokenizer decides where a text is cut."""

    table: ControlTokenTable
    prefix: Prefix  #: where the stock tokenizer puts a space that is not in the text; never at a boundary of ours
    prefix_after_normalized: bool  #: after control tokens with `normalized` too


def cut(
    rendered: RenderedText,
    boundaries: Sequence[int],
    assistant_messages: AbstractSet[int],
    rules: CutRules,
    policy: ControlTokens,
) -> Segments:
    """Cut a rendered text into slots.

    Args:
        rendered: the text and its provenance.
        boundaries: ascending first characters of the assistant turns, trained or not.
        assistant_messages: indices of the messages whose text may spell non-special control tokens.
        rules: the tokenizer's control tokens and prefix space.
        policy: what is done with other text that spells a control token.

    Raises:
        ControlTokenRejected: text of a message spells a control token and policy is REJECT.
        UnsupportedContent: a message holds half of a surrogate pair.
    """
    segments = Segments(rendered.text, utf8_of(rendered))
    if policy is ControlTokens.ALLOW:
        found: list[Found] = [(0, rules.table.find(rendered.text, 0, len(rendered.text)))]
    else:
        found = _trusted(rendered, assistant_messages, rules.table, segments.escaped)
        if policy is ControlTokens.REJECT and segments.escaped:
            raise rejection(segments.escaped[0])
    _fill(segments, found, boundaries, rules)
    return segments


def utf8_of(rendered: RenderedText) -> bytes:
    """Encode a rendered text.

    Raises:
        UnsupportedContent: a message holds half of a surrogate pair.
    """
    try:
        return rendered.text.encode()
    except UnicodeEncodeError as error:
        origin = origin_at(rendered, error.start)
        index = origin.message_index if origin is not None and origin.message_index >= 0 else None
        raise UnsupportedContent(
            f"holds half of a surrogate pair ({rendered.text[error.start]!a}), half a character; remove it",
            message_index=index,
            field=origin.field if origin is not None else "",
        ) from error


def origin_at(rendered: RenderedText, character: int) -> Origin | None:
    """Return where a character came from; None: it is the template's own."""
    ends = accumulate(length for length, _ in rendered.runs)
    return next((one for end, (_, one) in zip(ends, rendered.runs, strict=True) if end > character), None)


def rejection(span: ControlTokenSpan) -> ControlTokenRejected:
    """Return the error that names one spelled control token."""
    where = "" if span.message_index >= 0 else "text of tools or of unknown origin "
    return ControlTokenRejected(
        f"{where}spells the control token {span.text!r} at character {span.offset} of the rendered text; "
        "remove it, or use control_tokens=escape to encode it as ordinary text",
        message_index=span.message_index if span.message_index >= 0 else None,
    )


def spelled_by_messages(
    rendered: RenderedText, assistant_messages: AbstractSet[int], table: ControlTokenTable
) -> list[ControlTokenSpan]:
    """Return the control tokens that text of messages and tools spells without being entitled to."""
    escaped: list[ControlTokenSpan] = []
    _trusted(rendered, assistant_messages, table, escaped)
    return escaped


def _trusted(
    rendered: RenderedText,
    assistant_messages: AbstractSet[int],
    table: ControlTokenTable,
    escaped: list[ControlTokenSpan],
) -> list[Found]:
    """Return the control tokens that count; append those that don't to `escaped`.

    No control token is made of two authors' characters, so each stretch of one author is searched on its own.
    """
    trusted: list[Found] = []
    for start, end, author in _stretches(rendered):
        if author is None:
            trusted.append(table.find_in_literal(rendered.text, start, end))
        elif matches := table.find(rendered.text, start, end):
            counts = author in assistant_messages
            trusted.append((0, [match for match in matches if counts and not match.token.special]))
            escaped += [
                ControlTokenSpan(author, match.start, match.token.content)
                for match in matches
                if not counts or match.token.special
            ]
    return trusted


def _stretches(rendered: RenderedText) -> Iterator[tuple[int, int, int | None]]:
    """Yield (start, end, message index or None for the template) of the longest stretches of one author."""
    start = position = 0
    author: int | None = None
    for length, origin in rendered.runs:
        writer = None if origin is None else origin.message_index
        if writer != author:
            if position > start:
                yield start, position, author
            start, author = position, writer
        position += length
    if position > start:
        yield start, position, author


def _fill(segments: Segments, found: Sequence[Found], boundaries: Sequence[int], rules: CutRules) -> None:
    text, position = segments.whole, 0
    every = rules.prefix is Prefix.EVERY
    prefix = rules.prefix is not Prefix.NEVER
    starts, slots, plain = segments.starts, segments.slots, rules.table.plain
    for offset, matches in found:
        for match in matches:
            start, end, token = match
            if plain:
                start, end = start + offset, end + offset
            else:
                start, end = _with_white_space(match, text, position, boundaries)
                start = max(start, position)
                if start >= end:  # white space that the token before it took, where white space is part of its name
                    continue
            if start > position:
                _add_text(segments, position, start, boundaries, prefix)
            starts.append(start)
            slots.append(token.id)
            position = end
            prefix = every and (rules.prefix_after_normalized or not token.normalized)
    if position < len(text):
        _add_text(segments, position, len(text), boundaries, prefix)


def _with_white_space(match: Match, text: str, position: int, boundaries: Sequence[int]) -> tuple[int, int]:
    """Return start and end with the white space that the token takes, never from across a boundary."""
    before, after = bisect_right(boundaries, match.start), bisect_left(boundaries, match.end)
    floor = max(position, boundaries[before - 1] if before else 0)
    return match.with_white_space(text, floor, boundaries[after] if after < len(boundaries) else len(text))


def _add_text(segments: Segments, start: int, end: int, boundaries: Sequence[int], prefix: bool) -> None:
    """Add the segments of text[start:end], which holds no control token; only the first may have the prefix space."""
    inner = bisect_right(boundaries, start)
    while inner < len(boundaries) and boundaries[inner] < end:
        stop = boundaries[inner]
        _add_piece(segments, start, stop, prefix)
        start, prefix, inner = stop, False, inner + 1
    _add_piece(segments, start, end, prefix)


def _add_piece(segments: Segments, start: int, end: int, prefix: bool) -> None:
    segments.starts.append(start)
    segments.slots.append(TEXT)
    segments.texts.append(segments.whole[start:end])
    segments.prefixed.append(prefix)
