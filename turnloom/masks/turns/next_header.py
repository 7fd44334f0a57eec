"""Turns that end with the header of the next message.

Where a template closes no turn, the model emits that header to stop. GLM's turns are such: `<|user|>` and
`<|observation|>` are stop tokens of the model, and the templates print them as the headers of what follows. The token
belongs to the turn before it, as its end; the rest of the header does not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from turnloom.masks.domain.conversation import JSON, Message
from turnloom.masks.domain.errors import TemplateRefused
from turnloom.masks.domain.options import NextHeaderStop
from turnloom.masks.domain.rendered_text import Kind, Located, MessageSpan, Part, RenderedText
from turnloom.masks.template.added_token_text import AddedTokenFinder
from turnloom.masks.template.prompts import PROBE, Chat
from turnloom.masks.turns.text_map import TextMap, own_end

#: Follows a reply that calls tools.
RESULT: Final[Message] = {"role": "tool", "content": "Done."}
#: No token is longer, in characters.
_LONGEST: Final = 128
#: Roles whose messages a conversation is given, and that follow no reply at inference.
_GIVEN: Final = frozenset({"system", "developer"})


@dataclass(frozen=True, slots=True)
class HeaderRule:
    """When a header ends the turn before it."""

    option: NextHeaderStop
    tokens: Mapping[str, bool]  #: every added token -> whether it is special
    finder: AddedTokenFinder
    stops: Collection[str]  #: what the model's generation config stops at; empty: not known

    def token(self, behind: str, before: str, role: JSON) -> str:
        """Return the token by which the header of the next message ends a turn; empty: there is none.

        Where stop tokens are not known, one that also begins the header of replies (`<|im_start|>`) says too little.
        So does that of a system message, which no model writes.

        Args:
            behind: the text right behind the turn.
            before: the text right before it.
            role: of the next message.
        """
        near = behind[:_LONGEST]
        first, end = next(self.finder.spans(near), (1, 1))
        token = near[:end]
        if first or role == "assistant" or self.option is NextHeaderStop.NEVER:
            return ""
        if self.option is NextHeaderStop.ALWAYS:
            return token
        if self.stops:
            return token if token in self.stops else ""
        header = [before[one:two] for one, two in self.finder.spans(before) if self.tokens[before[one:two]]][-1:]
        return token if self.tokens.get(token, False) and token not in header and role not in _GIVEN else ""

    def is_open(self, text: str, span: MessageSpan) -> bool:
        """Whether the template closes a turn with nothing, or with tokens that stop nothing, such as `</tool_call>`."""
        closing, position = text[span.eot_start : span.end], 0
        for start, end in self.finder.spans(closing):
            stops = closing[start:end] in self.stops if self.stops else self.tokens[closing[start:end]]
            if stops or closing[position:start].strip():
                return False
            position = end
        return not closing[position:].strip()


def ended_by_header(located: Located, messages: Sequence[Message], rendered: RenderedText, rule: HeaderRule) -> Located:
    """Extend the spans of open turns by the token that begins the header behind them."""
    if rule.option is NextHeaderStop.NEVER:
        return located
    text: TextMap | None = None
    spans = []
    warnings = list(located.warnings)
    for span in located.message_spans:
        following = messages[span.message_index + 1 : span.message_index + 2]
        token = ""
        if span.role == "assistant" and following and rule.is_open(rendered.text, span):
            behind = rendered.text[span.end : span.end + _LONGEST]
            token = rule.token(behind, _before(rendered, span), following[0].get("role"))
        if not token:
            spans.append(span)
            continue
        text = text or TextMap(rendered)
        if text.origin(bisect_right(text.starts, span.end) - 1) is not None:
            spans.append(span)  # a message spells it
            continue
        spans.append(with_end(span, len(token)))
        warnings = [*without_unclosed(warnings, span.message_index)]
    return (
        located
        if spans == list(located.message_spans)
        else replace(located, message_spans=tuple(spans), warnings=tuple(warnings))
    )


def _before(rendered: RenderedText, span: MessageSpan) -> str:
    return rendered.text[max(0, span.start - _LONGEST) : span.start]


def unclosed(index: int, stop: str = "") -> str:
    """Return the warning for a turn that nothing closes; `stop`: what ensure_final_stop would append."""
    hint = f"; set ensure_final_stop to append {stop!r}" if stop else ""
    return f"messages[{index}]: the template prints no end-of-turn token after this turn{hint}"


def without_unclosed(warnings: Sequence[str], index: int) -> tuple[str, ...]:
    """Return the warnings without that of this turn."""
    return tuple(warning for warning in warnings if not warning.startswith(unclosed(index)))


def with_end(span: MessageSpan, length: int) -> MessageSpan:
    """Extend the span by `length` characters as its end of turn; what closed it before becomes scaffold."""
    end = span.end + length
    parts = [part._replace(kind=Kind.SCAFFOLD) if part.kind is Kind.EOT else part for part in span.parts]
    if len(parts) > 1 and parts[-1].kind is parts[-2].kind:
        parts[-2:] = [Part(parts[-2].start, parts[-1].end, parts[-1].kind)]
    return span._replace(eot_start=span.end, end=end, trailing_end=end, parts=(*parts, Part(span.end, end, Kind.EOT)))


def final_stop(
    chat: Chat,
    messages: Sequence[Message],
    rendered: RenderedText,
    spans: Sequence[MessageSpan],
    rule: HeaderRule,
    following: Sequence[Message] = (),
) -> str:
    """Return the token by which what follows ends the last turn; empty where it is closed or nothing does.

    Args:
        chat: renders.
        messages: shown.
        rendered: their text.
        spans: located in it.
        rule: when a header ends a turn.
        following: the message that follows in the conversation; empty: what would follow.
    """
    last = spans[-1] if spans else None
    if last is None or last.message_index != len(messages) - 1 or last.role != "assistant":
        return ""
    if rule.option is NextHeaderStop.NEVER or not rule.is_open(rendered.text, last):
        return ""
    probes = (RESULT, PROBE) if messages[-1].get("tool_calls") else (PROBE,)
    for probe in following or probes:
        behind = _behind(chat, [*messages, probe], rendered, last)
        if behind is not None:
            return rule.token(behind, _before(rendered, last), probe.get("role"))
    return ""


def _behind(chat: Chat, messages: Sequence[Message], rendered: RenderedText, last: MessageSpan) -> str | None:
    """Return what the template prints itself right behind a turn once a message follows it; None: it can't be told.

    The turn may be rendered in another form then (GLM drops its reasoning). Its last text and what stands between that
    and its end tell where it ends.

    Args:
        chat: renders.
        messages: up to the one that follows the turn.
        rendered: the text that ends with the turn.
        last: the turn in it.
    """
    try:
        followed = TextMap(chat.renders.traced(messages))
    except TemplateRefused:
        return None
    end = last.end
    if not followed.rendered.text.startswith(rendered.text[:end]):
        alone, index = TextMap(rendered), last.message_index
        own, later = alone.runs_of.get(index), followed.runs_of.get(index)
        if not own or not later:
            return None
        closing = rendered.text[alone.starts[own_end(alone, own, index)] : end]
        end = followed.starts[own_end(followed, later, index)]
        if not followed.rendered.text.startswith(closing, end):
            return None
        end += len(closing)
    run = bisect_right(followed.starts, end) - 1
    is_literal = run < len(followed.rendered.runs) and followed.origin(run) is None
    return followed.rendered.text[end : followed.starts[run + 1]] if is_literal else None
