"""Message spans in a rendered text, found by origin and proved once per pattern of literals.

Where a turn with one pattern and shape begins and ends is proved with renders the first time it is seen, and read off
afterwards; so locating is linear in messages.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Final

from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.domain.conversation import JSON, REASONING_FIELDS, Message
from turnloom.masks.domain.errors import ContentNotCovered, Interleaved, PreprocessError, UnlocatableTurn
from turnloom.masks.domain.rendered_text import TOOLS, UNKNOWN, Located, MessageSpan, RenderedText
from turnloom.masks.template.prompts import Chat, common_length
from turnloom.masks.template.shape import Signature
from turnloom.masks.turns.bounds_by_render import prove
from turnloom.masks.turns.bounds_cache import Proof, Window, applied, proof_of, window_of
from turnloom.masks.turns.last_turn import Turn
from turnloom.masks.turns.span_parts import parts_of
from turnloom.masks.turns.text_map import TextMap, next_foreign, own_end, pieces_between, trailing_end

#: One of so many reads of a proof is proved again, for ever.
RECHECK: Final = 512
#: Patterns remembered under one set of settings, about 1 kB each.
PROOFS: Final = 2048
_LOG: Final = logging.getLogger(__name__)


class MessageSpanFinder:
    """Finds message spans for one template under one set of settings; keeps what it has proved."""

    def __init__(self) -> None:
        """Begin with nothing proved."""
        self._proofs: BoundedCache[tuple[object, ...], Proof] = BoundedCache(PROOFS)
        self._unlocatable: BoundedCache[tuple[object, ...], bool] = BoundedCache(PROOFS)
        self.prefills: tuple[str, ...] = ()  #: seen so far; a handful per template
        self._reads = 0  #: of proofs; approximate where threads race
        self.proved = 0  #: turns that were proved by renders so far, and not read off

    def locate(
        self,
        chat: Chat,
        messages: Sequence[Message],
        shapes: Sequence[Signature],
        rendered: RenderedText,
        wanted: Collection[int],
        fresh: Collection[int] = (),
    ) -> Located:
        """Message spans of the wanted messages, and where every other assistant turn begins.

        Args:
            chat: template and settings.
            messages: those that are rendered.
            shapes: their signatures.
            rendered: their text.
            wanted: indices of those to locate.
            fresh: turns to prove anew instead of reading off.

        Raises:
            UnlocatableTurn, Interleaved, ContentNotCovered: naming the message.
        """
        text = TextMap(rendered)
        message_spans: list[MessageSpan] = []
        warnings: list[str] = []
        begins: list[tuple[int, int]] = []
        for index, message in enumerate(messages):
            if index not in wanted:
                if message.get("role") == "assistant":
                    begin = self._begin(chat, messages, shapes, text, index, fresh)
                    if begin is not None:
                        begins.append((index, begin))
                continue
            if message.get("role") == "assistant":
                turn = self._turn(chat, messages, shapes, text, index, fresh)
                begins.append((index, turn.start))
                warnings += _checked(text, messages, index, turn)
            else:
                other = _other_role(chat, messages, text, index)
                if other is None:
                    warnings.append(f"messages[{index}]: the template prints nothing of this message")
                    continue
                turn = other
            warnings += turn.warnings
            message_spans.append(_region(chat, messages, text, index, turn))
        for one, two in pairwise(message_spans):
            if two.start < one.end:
                raise Interleaved("its text lies inside that of another message", message_index=two.message_index)
        begins.sort(key=itemgetter(1))
        return Located(tuple(message_spans), tuple(dict.fromkeys(warnings)), tuple(begins))

    def _begin(
        self,
        chat: Chat,
        messages: Sequence[Message],
        shapes: Sequence[Signature],
        text: TextMap,
        index: int,
        fresh: Collection[int],
    ) -> int | None:
        """Where a turn begins that is not trained; None where it can't be told, which refuses no one."""
        window = window_of(chat, messages, shapes, text, index)
        key = None if window is None else self._key(window, text, index)
        if key is not None and self._unlocatable.get(key):
            return None
        try:
            return self._turn(chat, messages, shapes, text, index, fresh).start
        except PreprocessError:
            if key is not None:
                self._unlocatable[key] = True
            return None

    def _turn(
        self,
        chat: Chat,
        messages: Sequence[Message],
        shapes: Sequence[Signature],
        text: TextMap,
        index: int,
        fresh: Collection[int],
    ) -> Turn:
        if index in fresh:
            self.proved += 1
            return prove(chat, messages, text.rendered, index)
        if index not in text.runs_of and has_text(messages[index].get("content")):
            raise ContentNotCovered("the template leaves this text out", message_index=index, field="content")
        turn: Turn | None = None
        window = window_of(chat, messages, shapes, text, index)
        if window is not None:
            proof = self._proofs.get(self._key(window, text, index))
            turn = None if proof is None else applied(proof, text, window, index)
            self._reads += 1
            if turn is not None and self._reads % RECHECK:
                return turn
        self.proved += 1
        read, turn = turn, prove(chat, messages, text.rendered, index)
        if read is not None and (read.start, read.end) != (turn.start, turn.end):
            _LOG.error("template %s: a proved pattern did not hold: %s, now %s", chat.template.sha256, read, turn)
        if window is not None:
            proof = proof_of(turn, text, window, index)
            if proof is not None and self._learn(turn.prefills):
                self._proofs[self._key(window, text, index)] = proof
        return turn

    def _learn(self, prefills: tuple[str, ...]) -> bool:
        """Note prompts that reach into a reply; False where they are too many or too long to be the template's."""
        known = tuple(sorted({*self.prefills, *prefills}))
        if len(known) > 32 or any(len(prefill) > 256 for prefill in prefills):
            return False
        self.prefills = known
        return True

    def _key(self, window: Window, text: TextMap, index: int) -> tuple[object, ...]:
        """The window's pattern, and how far the text goes along with prompts that reach into the turn's own."""
        own = text.runs_of.get(index)
        if not own or not self.prefills:
            return window.key
        first = text.starts[own[0]]  # a short text of its own ends there, and what follows it may go along, too
        begun = text.rendered.text[first : first + len(max(self.prefills, key=len))]
        return (*window.key, self.prefills, tuple(common_length(prefill, begun) for prefill in self.prefills))


def _other_role(chat: Chat, messages: Sequence[Message], text: TextMap, index: int) -> Turn | None:
    """A message that no model emits: from its first character to the end-of-turn literal after its last."""
    own = text.runs_of.get(index)
    if not own:
        return None
    start, last = text.starts[own[0]], text.starts[own_end(text, own, index)]
    tail = text.rendered.text[last : text.starts[next_foreign(text, own[0], index)]]
    token = next(chat.control.spans(tail), None)
    if token is None or tail[: token[0]].strip():
        return Turn(start, last, last, "content/content", "")
    return Turn(start, last + token[0], last + token[1], "content/eot", "")


def _region(chat: Chat, messages: Sequence[Message], text: TextMap, index: int, turn: Turn) -> MessageSpan:
    message = messages[index]
    pieces = list(pieces_between(text, turn.start, turn.eot_start))
    return MessageSpan(
        message_index=index,
        role=str(message.get("role")),
        start=turn.start,
        eot_start=turn.eot_start,
        end=turn.end,
        trailing_end=trailing_end(text, turn.end),
        located_by=turn.located_by,
        parts=parts_of(pieces, turn.eot_start, turn.end, message.get("content")),
    )


def _checked(text: TextMap, messages: Sequence[Message], index: int, turn: Turn) -> list[str]:
    """Only this message's text lies inside, and all of it that was to be trained does; warnings for the rest."""
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
    given = next((name for name in REASONING_FIELDS if has_text(message.get(name))), None)
    if given is None or blurred or any(printed.get(name) for name in REASONING_FIELDS):
        return []
    return [f"messages[{index}].{given}: the template leaves the reasoning of this turn out"]


def has_text(content: JSON) -> bool:
    """Whether content has a character that is no white space."""
    if isinstance(content, str):
        return bool(content) and not content.isspace()
    if isinstance(content, (list, tuple)):
        return any(has_text(part.get("text")) if isinstance(part, Mapping) else has_text(part) for part in content)
    return False
