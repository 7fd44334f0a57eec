"""Locate a turn's bounds in a longer render by rendering the conversation up to the turn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from turnloom.masks.domain.conversation import Message
from turnloom.masks.domain.errors import ContentNotCovered, LayoutError, UnlocatableTurn
from turnloom.masks.domain.rendered_text import Origin, RenderedText, runs_behind
from turnloom.masks.template.prompts import Chat
from turnloom.masks.turns.last_turn import Turn, last_turn
from turnloom.masks.turns.span_parts import EMPTY_BLOCK, has_text
from turnloom.masks.turns.text_map import TextMap, is_own, next_foreign, own_end

#: Renders of a long conversation that are remembered.
LATEST: Final = 3


class TurnProver:
    """Locates the turns of one conversation; every beginning of it is rendered once."""

    def __init__(self, chat: Chat, messages: Sequence[Message], *, keep: bool = True) -> None:
        """Begin with nothing rendered.

        Args:
            chat: template, settings and tools.
            messages: the conversation.
            keep: remember renders; of a long conversation they would take too much.
        """
        self.chat = chat
        self.messages = messages
        self._keep = keep
        self._shown: dict[int, RenderedText] = {}
        self._turns: dict[int, Turn | LayoutError] = {}
        self._spliced: dict[int, tuple[RenderedText, Turn]] = {}

    def shown(self, messages: int) -> RenderedText:
        """Return the render of the first `messages` messages."""
        found = self._shown.pop(messages, None) or self.chat.renders.traced(self.messages[:messages])
        self._shown[messages] = found
        if not self._keep and len(self._shown) > LATEST:
            del self._shown[next(iter(self._shown))]
        return found

    def alone(self, index: int) -> Turn:
        """Return the bounds of a turn in the render that ends with it.

        Raises:
            LayoutError: they can't be told.
        """
        turn = self._turns.get(index)
        if turn is None:
            try:
                turn = self._last(self.messages[: index + 1], self.shown(index + 1))
            except LayoutError as error:
                turn = error
            if self._keep:
                self._turns[index] = turn
        if isinstance(turn, LayoutError):
            raise turn
        return turn

    def closing(self, index: int) -> str:
        """Return what closes a turn in the render that ends with it.

        Raises:
            LayoutError: its bounds can't be told.
        """
        turn = self.alone(index)
        return self.shown(index + 1).text[turn.eot_start : turn.end]

    def _last(self, messages: Sequence[Message], rendered: RenderedText) -> Turn:
        index = len(messages) - 1
        if has_text(messages[index].get("content")) and all(
            origin is None or origin.message_index != index for _, origin in rendered.runs
        ):
            raise ContentNotCovered("the template leaves this text out", message_index=index, field="content")
        return last_turn(self.chat, messages, rendered)

    def sampled(self, index: int) -> tuple[RenderedText, Turn]:
        """Return a turn as it was sampled.

        That is the render that ends with it, or its prompt plus its text in that render.

        Raises:
            LayoutError: its bounds can't be told.
        """
        turn, own = self.alone(index), self.shown(index + 1)
        if not turn.spliced:
            return own, turn
        made = self._spliced.get(index)
        if made is None:
            prompt = self.chat.renders.traced(self.messages[:index], prompt=True)
            text = prompt.text + own.text[turn.start :]
            runs = _joined(prompt.runs, runs_behind(own.runs, turn.start))
            moved = len(prompt.text) - turn.start
            bounds = turn._replace(start=len(prompt.text), eot_start=turn.eot_start + moved, end=turn.end + moved)
            made = self._spliced[index] = RenderedText(text, runs), bounds
        return made

    def whole(self, messages: int) -> RenderedText:
        """Render the first `messages` messages as the last was sampled, or as rendered where that is not a turn."""
        if self.messages[messages - 1].get("role") == "assistant":
            with suppress(LayoutError):
                return self.sampled(messages - 1)[0]
        return self.shown(messages)

    def extends(self, index: int, rendered: RenderedText) -> bool:
        """Whether a text begins with all of a turn as it was sampled up to its end."""
        own, turn = self.sampled(index)
        return rendered.text.startswith(own.text[: turn.end])

    def within(self, text: TextMap, messages: int, index: int) -> Turn:
        """Return the bounds of a turn in a text of the first `messages` messages.

        Raises:
            LayoutError: they can't be told.
        """
        if self.extends(index, text.rendered):
            return self.sampled(index)[1]
        if index + 1 == messages:
            return self.alone(index)
        return transferred(text, index, self)


def _joined(
    runs: Sequence[tuple[int, Origin | None]], more: Sequence[tuple[int, Origin | None]]
) -> tuple[tuple[int, Origin | None], ...]:
    if runs and more and runs[-1][1] == more[0][1]:
        return (*runs[:-1], (runs[-1][0] + more[0][0], more[0][1]), *more[1:])
    return (*runs, *more)


def transferred(text: TextMap, index: int, prover: TurnProver) -> Turn:
    """Return the bounds of an earlier turn not rendered as it was sampled (only as_rendered asks for such)."""
    rendered, turn = text.rendered.text, prover.alone(index)
    closing = prover.closing(index)
    before, first, last, stop = _surroundings(text, index, prover)
    start = _after_header(prover.chat, turn.prompt, rendered[before:first])
    if start is not None and prover.messages[index].get("reasoning_content"):
        block = EMPTY_BLOCK.match(rendered[before + start : first].lstrip())
        start = start if block is None else rendered.index(block[0], before + start) + len(block[0]) - before
    if first == last and start is not None:  # nothing of its own: what closes it comes after its header
        last = before + start
    at = rendered[last:stop].find(closing) if closing else 0
    if start is None or at < 0:
        raise UnlocatableTurn(
            "the template renders this earlier turn in another form than it was sampled in, and its"
            f" {'start' if start is None else 'end'} can't be told",
            message_index=index,
        )
    eot_start = last + at
    return turn._replace(
        start=before + start, eot_start=eot_start, end=eot_start + len(closing), located_by="transferred"
    )


def _surroundings(text: TextMap, index: int, prover: TurnProver) -> tuple[int, int, int, int]:
    """Return where a turn and the texts around it begin and end.

    Returns:
        End of the text before the turn, its first character, end of its last, start of the text after it.

    Raises:
        ContentNotCovered: nothing is printed of the turn, and which literals are its own can't be told.
    """
    own = text.runs_of.get(index)
    if own:
        before = max((text.starts[run + 1] for run in _others_before(text, own[0], index)), default=0)
        stop = text.starts[next_foreign(text, own[0], index)]
        return before, text.starts[own[0]], text.starts[own_end(text, own, index)], stop
    runs = [run for run in range(len(text.rendered.runs)) if text.origin(run) is not None]
    earlier = [run for run in runs if _index(text, run) < index]
    later = [run for run in runs if _index(text, run) > index]
    neighbours = {_index(text, earlier[-1])} if earlier else set()
    if not earlier or neighbours != {index - 1} or (later and _index(text, later[0]) != index + 1):
        raise ContentNotCovered("the template prints nothing of this turn", message_index=index)
    before = text.starts[earlier[-1] + 1]
    stop = text.starts[later[0]] if later else text.starts[-1]
    return before, stop, stop, stop


def _index(text: TextMap, run: int) -> int:
    origin = text.origin(run)
    return -1 if origin is None else origin.message_index


def _after_header(chat: Chat, prompt: str, gap: str) -> int | None:
    """Return where the longest prefix of a generation prompt that cuts no token ends in the literals before a turn."""
    for length in range(len(prompt), 0, -1):
        header = prompt[:length]
        if not header.strip() or chat.control.floor(header, length) != length:
            continue
        at = gap.rfind(header)
        if at >= 0 and not gap[at + length : at + length + 1].isalnum():
            return at + length
    return None


def _others_before(text: TextMap, run: int, index: int) -> list[int]:
    while run > 0:
        run -= 1
        if not is_own(text.origin(run), index):
            return [run]
    return []
