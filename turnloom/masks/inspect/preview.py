"""Show one conversation token by token: what is trained, whose text it is, and what was cut."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.domain.example import ControlTokenSpan
from turnloom.masks.domain.options import Options
from turnloom.masks.domain.rendered_text import TOOLS, Kind, MessageSpan, Origin, View
from turnloom.masks.model import Model
from turnloom.masks.pipeline import compares, escaped_spans, fitted_batch, has_unknown, warnings_of
from turnloom.masks.rows.fit import Fitted
from turnloom.masks.tokenizer.encode import token_starts, trained_bytes

#: What text of a message outside every message span is, by the field it came from; all others are content.
FIELD_KINDS: Final = {"reasoning_content": Kind.REASONING, "reasoning": Kind.REASONING, "tool_calls": Kind.TOOL_CALL}


@dataclass(frozen=True, slots=True)
class PreviewToken:
    """One token of a row."""

    id: int
    text: str  #: what it decodes to; bytes that are no whole character as \\xNN
    weight: float  #: of predicting this token, 0.0 for the first of a row
    message_index: int | None  #: None for what the template prints between turns
    role: str  #: of that message, "tools" for tool schemas, "" for what the template prints between turns
    kind: str  #: a Kind: header, content, reasoning, tool_call, scaffold, eot


@dataclass(frozen=True, slots=True)
class PreviewExample:
    """One row as it would be trained."""

    part: int  #: 0.. when one conversation gives several
    rendered_text: str  #: before truncation
    tokens: Sequence[PreviewToken]  #: after truncation
    truncated_tokens: int
    truncated_loss_tokens: int
    target_bytes: int  #: UTF-8 bytes of the trained text
    escaped: Sequence[ControlTokenSpan]  #: offsets into this example's rendered_text


@dataclass(frozen=True, slots=True)
class Preview:
    """All rows that one conversation gives."""

    examples: Sequence[PreviewExample]
    warnings: Sequence[str]
    unchecked: int = 0  #: examples whose ids could not be compared with the text


def preview(conversation: Conversation, options: Options, model: Model) -> Preview:
    """Show what preprocess() makes of a conversation, including rows without weight and their warnings.

    Raises:
        PreprocessError: why no row can be made.
    """
    fits = fitted_batch([conversation], options, model)[0]
    if isinstance(fits, PreprocessError):
        raise fits
    compared = compares(options, model)
    roles = [str(message.get("role", "")) for message in conversation.messages]
    return Preview(
        examples=[_example(part, fitted, roles, model) for part, fitted in enumerate(fits.examples)],
        warnings=tuple(
            dict.fromkeys(
                [*fits.warnings, *(line for fitted in fits.examples for line in warnings_of(fitted, options, model))]
            )
        ),
        unchecked=sum(not compared or has_unknown(fitted, model) for fitted in fits.examples),
    )


def _example(part: int, fitted: Fitted, roles: Sequence[str], model: Model) -> PreviewExample:
    text, row = fitted.example.text, fitted.row
    starts = token_starts(text, model.vocabulary)[row.first : row.first + len(row.token_ids)]
    weights = [0.0] * len(row.token_ids)
    for start, end, weight in row.spans:
        weights[max(start, 1) : end] = [weight] * (end - max(start, 1))
    authors = _Authors(fitted.example.weighted.view, fitted.messages, roles)
    tokens = [
        PreviewToken(index, _shown(model.vocabulary.token_text(index)), weight, *authors.of(character))
        for index, weight, character in zip(row.token_ids.tolist(), weights, starts.tolist(), strict=True)
    ]
    return PreviewExample(
        part=part,
        rendered_text=text.segments.whole,
        tokens=tokens,
        truncated_tokens=fitted.truncated_tokens,
        truncated_loss_tokens=fitted.truncated_loss_tokens,
        target_bytes=trained_bytes(text, row, model.vocabulary),
        escaped=escaped_spans([fitted]),
    )


def _shown(decoded: bytes) -> str:
    return decoded.decode(errors="backslashreplace")


class _Authors:
    """The author of each character of one view."""

    def __init__(self, view: View, messages: Sequence[int] | None, roles: Sequence[str]) -> None:
        self._regions = view.message_spans
        self._region_starts = [span.start for span in view.message_spans]
        self._run_ends = list(accumulate(length for length, _ in view.rendered.runs))
        self._origins = [origin for _, origin in view.rendered.runs]
        self._messages = messages
        self._roles = roles

    def of(self, character: int) -> tuple[int | None, str, str]:
        """Return message index, role and kind."""
        before = bisect_right(self._region_starts, character) - 1
        if before >= 0 and character < self._regions[before].end:
            span = self._regions[before]
            return self._index(span.message_index), span.role, _kind(span, character).value
        run = bisect_right(self._run_ends, character)
        origin = self._origins[run] if run < len(self._origins) else None
        return self._of_origin(origin)

    def _of_origin(self, origin: Origin | None) -> tuple[int | None, str, str]:
        if origin is None:
            return None, "", Kind.HEADER.value
        kind = FIELD_KINDS.get(origin.field, Kind.CONTENT).value
        if origin.message_index < 0:
            return None, "tools" if origin.message_index == TOOLS else "", kind
        index = self._index(origin.message_index)
        return index, self._roles[index], kind

    def _index(self, shown: int) -> int:
        return shown if self._messages is None else self._messages[shown]


def _kind(span: MessageSpan, character: int) -> Kind:
    inside = (part.kind for part in span.parts if part.start <= character < part.end)
    return next(inside, Kind.CONTENT if character < span.eot_start else Kind.EOT)
