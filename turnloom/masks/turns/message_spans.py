"""Message spans in a rendered text, found by origin and proved by renders.

Every turn is proved by renders of its own conversation. In a long one, the bounds of a turn with one pattern and shape
are proved when first seen. Afterwards they are read off. So locating is linear in messages.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Final

from turnloom.masks.domain.conversation import Message
from turnloom.masks.domain.errors import Interleaved, LayoutError, UnlocatableTurn
from turnloom.masks.domain.rendered_text import TOOLS, UNKNOWN, Located, MessageSpan, RenderedText
from turnloom.masks.template.prompts import Chat, common_length
from turnloom.masks.template.shape import Signature
from turnloom.masks.turns.bounds_by_render import TurnProver
from turnloom.masks.turns.bounds_cache import Proof, Window, applied, proof_of, window_of
from turnloom.masks.turns.coverage import Shown, is_as_sent, trained_warnings
from turnloom.masks.turns.last_turn import Turn
from turnloom.masks.turns.span_parts import Piece, parts_of
from turnloom.masks.turns.text_map import TextMap, next_foreign, own_end, pieces_between, trailing_end

#: One of so many reads of a proof is proved again.
RECHECK: Final = 512
_LOG: Final = logging.getLogger(__name__)


class MessageSpanFinder:
    """Finds the message spans of one conversation."""

    def __init__(self, prover: TurnProver, shapes: Sequence[Signature] | None = None) -> None:
        """Begin with nothing proved.

        Args:
            prover: of the conversation.
            shapes: signatures of its messages: where they and the literals around are alike, a proof is read off. None:
                every turn is proved.
        """
        self._prover = prover
        self._shapes = shapes
        self._proofs: dict[tuple[object, ...], Proof] = {}
        self._unlocatable: set[tuple[object, ...]] = set()
        self.prefills: set[str] = set()  #: of prompts that reach into replies; a handful per template
        self._reads = 0

    def locate(
        self, rendered: RenderedText, shown: int, wanted: Collection[int], fresh: Collection[int] = ()
    ) -> Located:
        """Return the message spans of the wanted messages, and where every other assistant turn begins.

        Args:
            rendered: the text of the first `shown` messages.
            shown: how many.
            wanted: indices of those to locate.
            fresh: turns to prove again instead of reading off.

        Raises:
            UnlocatableTurn, Interleaved, ContentNotCovered: naming the message.
        """
        text, chat, messages = TextMap(rendered), self._prover.chat, self._prover.messages[:shown]
        message_spans: list[MessageSpan] = []
        warnings: list[str] = []
        begins: list[tuple[int, int]] = []
        for index, message in enumerate(messages):
            if index not in wanted:
                if (
                    message.get("role") == "assistant"
                    and (begin := self._begin(messages, text, index, fresh)) is not None
                ):
                    begins.append((index, begin))
                continue
            if message.get("role") == "assistant":
                turn = self._turn(messages, text, index, fresh)
                begins.append((index, turn.start))
                pieces = list(pieces_between(text, turn.start, turn.end))
                warnings += checked(pieces, rendered.text[turn.start : turn.end], message, index)
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

    def _begin(self, messages: Sequence[Message], text: TextMap, index: int, fresh: Collection[int]) -> int | None:
        """Return where an untrained turn begins; None where it can't be determined, which is not an error."""
        window = self._window(messages, text, index)
        key = None if window is None else self._key(window, text, index)
        if key in self._unlocatable:
            return None
        try:
            return self._turn(messages, text, index, fresh).start
        except LayoutError:
            if key is not None:
                self._unlocatable.add(key)
            return None

    def _turn(self, messages: Sequence[Message], text: TextMap, index: int, fresh: Collection[int]) -> Turn:
        window = None if index in fresh else self._window(messages, text, index)
        read: Turn | None = None
        if window is not None:
            proof = self._proofs.get(self._key(window, text, index))
            read = None if proof is None else applied(proof, text, window, index)
            self._reads += 1
            if read is not None and self._reads % RECHECK:
                return read
        turn = self._prover.within(text, len(messages), index)
        self.prefills.update(turn.prefills)
        if read is not None and (read.start, read.end) != (turn.start, turn.end):
            sha256 = self._prover.chat.template.sha256
            _LOG.error("template %s: a proved pattern did not hold: %s, now %s", sha256, read, turn)
        if window is not None and (proof := proof_of(turn, text, window, index)) is not None:
            self._proofs[self._key(window, text, index)] = proof
        return turn

    def _window(self, messages: Sequence[Message], text: TextMap, index: int) -> Window | None:
        if self._shapes is None:
            return None
        return window_of(self._prover.chat, messages, self._shapes, text, index)

    def _key(self, window: Window, text: TextMap, index: int) -> tuple[object, ...]:
        """Return the window's pattern, and how far the text matches prompts that reach into the turn's own."""
        own = text.runs_of.get(index)
        if not own or not self.prefills:
            return window.key
        prefills = sorted(self.prefills)
        first = text.starts[own[0]]  # a short text of its own ends there, and what follows it may go along, too
        begun = text.rendered.text[first : first + len(max(prefills, key=len))]
        return (*window.key, *prefills, tuple(common_length(prefill, begun) for prefill in prefills))


def _other_role(chat: Chat, messages: Sequence[Message], text: TextMap, index: int) -> Turn | None:
    """Return the turn of a message that no model emits: its first character to the end-of-turn literal after it."""
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


def checked(pieces: Sequence[Piece], shown: str, message: Message, index: int) -> list[str]:
    """Check that a turn holds only its message's text, and all that is to be trained; return other warnings.

    Args:
        pieces: runs of the turn.
        shown: its text.
        message: its own.
        index: of the message.
    """
    if is_as_sent(pieces, message, index):
        return []
    for _, _, origin in pieces:
        if origin is None or origin.message_index == index:
            continue
        if origin.message_index == UNKNOWN:
            raise UnlocatableTurn("the template mixes its text with that of other messages", message_index=index)
        if origin.message_index != TOOLS:
            raise Interleaved(f"text of messages[{origin.message_index}] lies inside this turn", message_index=index)
    return trained_warnings(message, index, Shown(pieces, shown))
