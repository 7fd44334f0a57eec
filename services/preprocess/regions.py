"""Regions of messages in a rendered text, found by origin and proved once per pattern of literals. Knows no policies.

The literals around and inside a turn, with the fields between them, are its pattern. Where a turn with this pattern
and shape begins and ends is proved with renders (turn_markers) the first time it is seen, and read off afterwards;
so locating is linear in messages.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from services.preprocess.bounded import BoundedCache
from services.preprocess.conversation import JSON, Message
from services.preprocess.errors import ContentNotCovered, Interleaved, UnlocatableTurn
from services.preprocess.kinds import Piece, parts_of
from services.preprocess.rendered import TOOLS, UNKNOWN, Origin, Region, RenderedText
from services.preprocess.rendering import render
from services.preprocess.signatures import Signature
from services.preprocess.turn_markers import Chat, Turn, common_length, last_turn

#: One of so many reads of a proof is proved again, for ever.
RECHECK: Final = 512
_LOG: Final = logging.getLogger(__name__)

#: A position that does not depend on lengths: (run inside the window, characters from its start).
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Proof:
    """Where a turn with one pattern begins and ends."""

    start: Place
    eot_start: Place
    end: Place
    prefill: str  #: what the turn's own text must begin with, "" where the prompt ends in literals
    located_by: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """The runs between the last character of the message before and the first of the message after."""

    first_run: int
    stop_run: int
    key: tuple[object, ...]


class TextMap:
    """One rendered text by runs: where they start, and which belong to which message."""

    def __init__(self, rendered: RenderedText) -> None:
        """One pass over the runs."""
        self.rendered = rendered
        self.starts: list[int] = []  #: of every run, and the length of the text at the end
        self.runs_of: dict[int, list[int]] = {}  #: message index -> its runs in order
        position = 0
        for at, (length, origin) in enumerate(rendered.runs):
            self.starts.append(position)
            position += length
            if origin is not None:
                self.runs_of.setdefault(origin.message_index, []).append(at)
        self.starts.append(position)

    def origin(self, run: int) -> Origin | None:
        """The origin of a run."""
        return self.rendered.runs[run][1]

    def literal(self, run: int) -> str:
        """The text of a run."""
        return self.rendered.text[self.starts[run] : self.starts[run + 1]]


class RegionFinder:
    """Finds regions for one template under one set of settings; keeps what it has proved."""

    def __init__(self) -> None:
        """Begin with nothing proved."""
        self._proofs: BoundedCache[tuple[object, ...], Proof] = BoundedCache(4096)
        self._prefills: tuple[str, ...] = ()  #: seen so far; a handful per template
        self._reads = 0  #: of proofs; approximate where threads race

    def locate(
        self,
        chat: Chat,
        messages: Sequence[Message],
        shapes: Sequence[Signature],
        rendered: RenderedText,
        wanted: Collection[int],
        fresh: Collection[int] = (),
    ) -> tuple[tuple[Region, ...], tuple[str, ...]]:
        """Regions of the wanted messages in order of the text, and warnings.

        Args:
            chat: template and settings.
            messages: those that are rendered.
            shapes: their signatures.
            rendered: their text.
            wanted: indices of those to locate.
            fresh: of these, those to prove anew instead of reading off.

        Raises:
            UnlocatableTurn, Interleaved, ContentNotCovered: naming the message.
        """
        text = TextMap(rendered)
        regions: list[Region] = []
        warnings: list[str] = []
        for index in sorted(wanted):
            if messages[index].get("role") == "assistant":
                turn = (
                    _prove(chat, messages, rendered, index)
                    if index in fresh
                    else self._turn(chat, messages, shapes, text, index)
                )
                _check_region(text, messages, index, turn)
            else:
                other = _other_role(chat, messages, text, index)
                if other is None:
                    warnings.append(f"messages[{index}]: the template prints nothing of this message")
                    continue
                turn = other
            warnings += turn.warnings
            regions.append(_region(chat, messages, text, index, turn))
        for one, two in pairwise(regions):
            if two.start < one.end:
                raise Interleaved("its text lies inside that of another message", message_index=two.message_index)
        return tuple(regions), tuple(dict.fromkeys(warnings))

    def _turn(
        self,
        chat: Chat,
        messages: Sequence[Message],
        shapes: Sequence[Signature],
        text: TextMap,
        index: int,
    ) -> Turn:
        if index not in text.runs_of and has_text(messages[index].get("content")):
            raise ContentNotCovered("the template leaves this text out", message_index=index, field="content")
        turn: Turn | None = None
        window = _window(chat, messages, shapes, text, index)
        if window is not None:
            proof = self._proofs.get(self._key(window, text, index))
            turn = None if proof is None else _applied(proof, text, window, index)
            self._reads += 1
            if turn is not None and self._reads % RECHECK:
                return turn
        read, turn = turn, _prove(chat, messages, text.rendered, index)
        if read is not None and (read.start, read.end) != (turn.start, turn.end):
            _LOG.error("template %s: a proved pattern did not hold: %s, now %s", chat.template.sha256, read, turn)
        if window is not None:
            proof = _proof(turn, text, window, index)
            if proof is not None and self._learn(turn.prefills):
                self._proofs[self._key(window, text, index)] = proof
        return turn

    def _learn(self, prefills: tuple[str, ...]) -> bool:
        """Note prompts that reach into a reply; False where they are too many or too long to be the template's."""
        known = tuple(sorted({*self._prefills, *prefills}))
        if len(known) > 32 or any(len(prefill) > 256 for prefill in prefills):
            return False
        self._prefills = known
        return True

    def _key(self, window: Window, text: TextMap, index: int) -> tuple[object, ...]:
        """The window's pattern, and how far the turn's own text goes along with prompts that reach into it."""
        own = text.runs_of.get(index)
        if not own or not self._prefills:
            return window.key
        begun = text.literal(own[0])[: len(max(self._prefills, key=len))]
        return (*window.key, self._prefills, tuple(common_length(prefill, begun) for prefill in self._prefills))


def _window(
    chat: Chat, messages: Sequence[Message], shapes: Sequence[Signature], text: TextMap, index: int
) -> Window | None:
    """The runs of a turn and the literals around it; None where the text of others lies between."""
    first, stop = _bounds(text, index, len(messages))
    pattern = []
    for run in range(first, stop):
        origin = text.origin(run)
        if origin is not None and origin.message_index != index:
            return None
        pattern.append(text.literal(run) if origin is None else origin.field)
    if first >= stop:
        return None
    key = (
        tuple(pattern),
        shapes[index],
        shapes[index - 1] if index else None,
        shapes[0] if messages[0].get("role") in ("system", "developer") else None,
        messages[index + 1].get("role") if index + 1 < len(messages) else None,
        chat.tools is None,
        _silent_before(text, index),
    )
    return Window(first, stop, key)


def _bounds(text: TextMap, index: int, messages: int) -> tuple[int, int]:
    """First run after the text of the message before, and the run where that of the message after begins."""
    own = text.runs_of.get(index)
    if own:
        first = stop = own[0]
        while first and _is_own(text.origin(first - 1), index):
            first -= 1
        return first, max(stop + 1, _next_foreign(text, stop, index))
    before = next((text.runs_of[at][-1] for at in range(index - 1, -1, -1) if at in text.runs_of), -1)
    after = next((text.runs_of[at][0] for at in range(index + 1, messages) if at in text.runs_of), None)
    return before + 1, len(text.rendered.runs) if after is None else after


def _silent_before(text: TextMap, index: int) -> int:
    """How many messages in a row before this one print no text of their own; they share its literals."""
    count = 0
    while index - count > 0 and index - count - 1 not in text.runs_of:
        count += 1
    return count


def _is_own(origin: Origin | None, index: int) -> bool:
    return origin is None or origin.message_index == index


def _prove(chat: Chat, messages: Sequence[Message], rendered: RenderedText, index: int) -> Turn:
    """The turn's bounds in `rendered`, by rendering the conversation up to it."""
    if index + 1 == len(messages):
        return last_turn(chat, messages, rendered)
    shown = messages[: index + 1]
    alone = render(shown, chat.tools, chat.template, chat.settings)
    turn = last_turn(chat, shown, alone)
    if rendered.text.startswith(alone.text[: turn.end]):
        return turn
    return _transferred(chat, messages, rendered, index, alone, turn)


def _transferred(
    chat: Chat, messages: Sequence[Message], rendered: RenderedText, index: int, alone: RenderedText, turn: Turn
) -> Turn:
    """Bounds of an earlier turn that is not rendered as it was sampled (only as_rendered asks for such)."""
    text = TextMap(rendered)
    own = text.runs_of.get(index)
    if not own:
        raise ContentNotCovered("the template prints nothing of this turn", message_index=index)
    before = max((text.starts[run + 1] for run in _others_before(text, own[0], index)), default=0)
    gap = rendered.text[before : text.starts[own[0]]]
    start = None
    for length in range(len(turn.prompt), 0, -1):
        header = turn.prompt[:length]
        if not header.strip() or chat.control.floor(header, length) != length:
            continue
        at = gap.rfind(header)
        if at >= 0 and not gap[at + length : at + length + 1].isalnum():
            start = before + at + length
            break
    last = text.starts[_own_end(text, own, index)]
    tail_stop = text.starts[_next_foreign(text, own[0], index)]
    tail = rendered.text[last:tail_stop]
    closing = alone.text[turn.eot_start : turn.end]
    at = tail.find(closing) if closing else 0
    if start is None or at < 0:
        raise UnlocatableTurn(
            "the template renders this earlier turn in another form than it was sampled in, and its"
            f" {'start' if start is None else 'end'} can't be told; use on_unextendable split or last",
            message_index=index,
        )
    return replace(turn, start=start, eot_start=last + at, end=last + at + len(closing), located_by="transferred")


def _others_before(text: TextMap, run: int, index: int) -> list[int]:
    while run > 0:
        run -= 1
        if not _is_own(text.origin(run), index):
            return [run]
    return []


def _own_end(text: TextMap, own: Sequence[int], index: int) -> int:
    stop = _next_foreign(text, own[0], index)
    return max(run for run in own if run < stop) + 1


def _next_foreign(text: TextMap, run: int, index: int) -> int:
    while run < len(text.rendered.runs) and _is_own(text.origin(run), index):
        run += 1
    return run


def _proof(turn: Turn, text: TextMap, window: Window, index: int) -> Proof | None:
    """The turn's bounds as places in the window; None where one lies outside or inside text that varies."""
    start, eot_start, end = (_place(text, window, at) for at in (turn.start, turn.eot_start, turn.end))
    if start is None or eot_start is None or end is None:
        return None
    varying = [bool(place[1]) and text.origin(window.first_run + place[0]) is not None for place in (eot_start, end)]
    if any(varying):
        return None
    prefill = ""
    if start[1] and text.origin(window.first_run + start[0]) is not None:
        prefill = text.literal(window.first_run + start[0])[: start[1]]
    warnings = tuple(warning.replace(f"messages[{index}]", "messages[{}]") for warning in turn.warnings)
    return Proof(start, eot_start, end, prefill, turn.located_by, warnings)


def _place(text: TextMap, window: Window, position: int) -> Place | None:
    for run in range(window.first_run, window.stop_run):
        if text.starts[run] <= position < text.starts[run + 1]:
            return run - window.first_run, position - text.starts[run]
    if position == text.starts[window.stop_run]:
        return window.stop_run - window.first_run, 0
    return None


def _applied(proof: Proof, text: TextMap, window: Window, index: int) -> Turn | None:
    starts, first = text.starts, window.first_run
    start = starts[first + proof.start[0]] + proof.start[1]
    if proof.prefill and not text.rendered.text.startswith(proof.prefill, start - len(proof.prefill)):
        return None
    return Turn(
        start,
        starts[first + proof.eot_start[0]] + proof.eot_start[1],
        starts[first + proof.end[0]] + proof.end[1],
        proof.located_by,
        "",
        tuple(warning.replace("messages[{}]", f"messages[{index}]") for warning in proof.warnings),
    )


def _other_role(chat: Chat, messages: Sequence[Message], text: TextMap, index: int) -> Turn | None:
    """A message that no model emits: from its first character to the end-of-turn literal after its last."""
    own = text.runs_of.get(index)
    if not own:
        return None
    start, last = text.starts[own[0]], text.starts[_own_end(text, own, index)]
    tail = text.rendered.text[last : text.starts[_next_foreign(text, own[0], index)]]
    token = next(chat.control.spans(tail), None)
    if token is None or tail[: token[0]].strip():
        return Turn(start, last, last, "content/content", "")
    return Turn(start, last + token[0], last + token[1], "content/eot", "")


def _region(chat: Chat, messages: Sequence[Message], text: TextMap, index: int, turn: Turn) -> Region:
    message = messages[index]
    pieces = list(pieces_between(text, turn.start, turn.eot_start))
    return Region(
        message_index=index,
        role=str(message.get("role")),
        start=turn.start,
        eot_start=turn.eot_start,
        end=turn.end,
        trailing_end=_trailing_end(text, turn.end),
        located_by=turn.located_by,
        parts=parts_of(pieces, turn.eot_start, turn.end, message.get("content")),
    )


def pieces_between(text: TextMap, start: int, stop: int) -> Iterator[Piece]:
    """Runs between two positions, the outer ones cut."""
    run = bisect_right(text.starts, start) - 1
    while start < stop:
        end = min(stop, text.starts[run + 1])
        yield start, text.rendered.text[start:end], text.origin(run)
        start, run = end, run + 1


def _trailing_end(text: TextMap, end: int) -> int:
    """The end of the literal white space that follows."""
    while end < text.starts[-1]:
        run = bisect_right(text.starts, end) - 1
        if text.origin(run) is not None:
            break
        literal = text.rendered.text[end : text.starts[run + 1]]
        end += len(literal) - len(literal.lstrip())
        if literal.strip():
            break
    return end


def _check_region(text: TextMap, messages: Sequence[Message], index: int, turn: Turn) -> None:
    """Only this message's text lies inside, and all of it that was to be trained does."""
    printed: dict[str, bool] = {}
    for _, piece, origin in pieces_between(text, turn.start, turn.end):
        if origin is None:
            continue
        if origin.message_index == UNKNOWN:
            raise UnlocatableTurn("the template mixes its text with that of other messages", message_index=index)
        if origin.message_index not in (index, TOOLS):
            raise Interleaved(f"text of messages[{origin.message_index}] lies inside this turn", message_index=index)
        printed[origin.field] = printed.get(origin.field, False) or not piece.isspace()
    message = messages[index]
    blurred = printed.get("", False)
    if has_text(message.get("content")) and not printed.get("content") and not blurred:
        raise ContentNotCovered("the template leaves this text out", message_index=index, field="content")
    if message.get("tool_calls") and not printed.get("tool_calls") and not blurred:
        raise ContentNotCovered("the template leaves the tool calls out", message_index=index, field="tool_calls")


def has_text(content: JSON) -> bool:
    """Whether content has a character that is no white space."""
    if isinstance(content, str):
        return bool(content) and not content.isspace()
    if isinstance(content, (list, tuple)):
        return any(has_text(part.get("text")) if isinstance(part, Mapping) else has_text(part) for part in content)
    return False
