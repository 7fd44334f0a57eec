"""Where turns begin and end, decided turn by turn on what their renders do not share.

These are the decisions of `turns.last_turn` and `turns.bounds_by_render`. There a turn is looked at in the whole text
of its renders. Here what two renders share is one chain, so that only their ends are compared. Wherever the ends do not
tell, the functions there are asked, on the same renders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from turnloom.masks.domain.conversation import JSON, Message
from turnloom.masks.domain.errors import LayoutError
from turnloom.masks.domain.options import GenerationPrefill
from turnloom.masks.domain.rendered_text import RenderedText, runs_behind
from turnloom.masks.template.compiled import CompiledTemplate
from turnloom.masks.template.prompts import PROBE, Chat, common_length
from turnloom.masks.template.render import Renders, Settings
from turnloom.masks.trajectory.chains import NO_MESSAGE, Node
from turnloom.masks.trajectory.family import Family
from turnloom.masks.trajectory.programs.program import Piece, RaisedError, UnreplayableError, joined
from turnloom.masks.trajectory.renders import Sender
from turnloom.masks.turns.last_turn import Turn, last_turn
from turnloom.masks.turns.next_header import unclosed
from turnloom.masks.turns.span_parts import has_text


class PiecedRenders(Renders):
    """The renders of one conversation, walked instead of printed by the template."""

    def __init__(
        self,
        template: CompiledTemplate,
        settings: Settings,
        tools: Sequence[JSON] | None,
        messages: Sequence[Message],
        family: Family,
    ) -> None:
        """Begin with nothing rendered; `family` has the template's programs under these settings."""
        super().__init__(template, settings, tools)
        # What judges recordings knows nothing of this, so that no circle is left for the garbage collection.
        self.sender = Sender(messages, tools, partial(_printed, template, settings, tools, messages))
        self._messages = messages
        self.family = family

    def node(self, count: int, more: Sequence[Message] = (), *, prompt: bool = False) -> Node:
        """Render the first `count` messages of the conversation, and more behind them."""
        return self.sender.render(count, more, prompt=prompt, family=self.family)

    def text(self, messages: Sequence[Message], *, prompt: bool = False, **kwargs: JSON) -> str:
        """Return what `Renders.text` does."""
        try:
            return self._asked(messages, kwargs, prompt=prompt).text()
        except UnreplayableError as error:
            if kwargs or isinstance(error, RaisedError):
                return super().text(messages, prompt=prompt, **kwargs)
            raise

    def traced(self, messages: Sequence[Message], *, prompt: bool = False) -> RenderedText:
        """Return what `Renders.traced` does."""
        try:
            return self._asked(messages, {}, prompt=prompt).rendered()
        except RaisedError:
            return super().traced(messages, prompt=prompt)

    def _asked(self, messages: Sequence[Message], kwargs: Mapping[str, JSON], *, prompt: bool) -> Node:
        own = self._messages
        count = len(messages)
        while count and not (count <= len(own) and messages[count - 1] is own[count - 1]):
            count -= 1
        more = messages[count:]
        return self.sender.render(count, more, prompt=prompt, family=self.family, kwargs=kwargs)


def _printed(
    template: CompiledTemplate,
    settings: Settings,
    tools: Sequence[JSON] | None,
    messages: Sequence[Message],
    count: int,
    more: Sequence[Message],
    prompt: bool,
    kwargs: Mapping[str, JSON],
) -> RenderedText:
    """Render the first `count` messages, and more behind them, by the template itself."""
    settings = replace(settings, kwargs={**settings.kwargs, **kwargs})
    return Renders(template, settings, tools).traced([*messages[:count], *more], prompt=prompt)


class Bounds:
    """One turn as it was sampled."""

    __slots__ = ("base", "rest", "shown", "turn")

    def __init__(self, base: Node, shown: Node, rest: Piece, turn: Turn) -> None:
        self.base = base  #: the chain before the turn's own piece
        self.shown = shown  #: the chain that ends with it
        self.rest = rest  #: what is printed behind `base`
        self.turn = turn  #: characters count from the beginning of the text

    def own(self) -> str:
        """Return the text behind `base` up to the end of the turn."""
        return self.rest.text[: self.turn.end - self.base.end]

    def closing(self) -> str:
        """Return what closes the turn."""
        return self.rest.text[self.turn.eot_start - self.base.end : self.turn.end - self.base.end]


class TurnFinder:
    """Finds the turns of one conversation; each is decided once."""

    def __init__(self, chat: Chat, renders: PiecedRenders, messages: Sequence[Message]) -> None:
        """Begin with nothing decided."""
        self.chat = chat
        self.renders = renders
        self.messages = messages
        self._alone: dict[int, Bounds | LayoutError] = {}
        self._sampled: dict[int, Bounds] = {}

    def alone(self, index: int) -> Bounds:
        """Return a turn in the render that ends with it.

        Raises:
            LayoutError: its bounds can't be told.
        """
        found = self._alone.get(index)
        if found is None:
            try:
                found = self._found(index)
            except LayoutError as error:
                found = error
            self._alone[index] = found
        if isinstance(found, LayoutError):
            raise found
        return found

    def _found(self, index: int) -> Bounds:
        shown = self.renders.node(index + 1)
        base, rest = split_off(shown, index)
        if not rest.last and has_text(self.messages[index].get("content")):
            raise UnreplayableError("a turn whose content is left out")
        turn = self._decided(index, base, rest)
        if turn is None:
            turn = last_turn(self.chat, self.messages[: index + 1], shown.rendered())
        return Bounds(base, shown, rest, turn)

    def _decided(self, index: int, base: Node, rest: Piece) -> Turn | None:
        """Return the turn where its prompt is what it follows; else None.

        A prompt that the turn's text begins with ends where the turn begins, whatever else `last_turn` would look at.
        """
        chat, known = self.chat, self.chat.known
        if chat.prefill is not GenerationPrefill.DEFAULT:
            return None
        prompt = self._behind(base, index, prompt=True)
        if prompt is None or not rest.text.startswith(prompt):
            return None
        appended = known.appended
        if not appended or not prompt.endswith(appended) or base.end + len(prompt) - len(appended) < base.text_end:
            bare = self._behind(base, index)
            if bare is None:
                return None
            appended = prompt[common_length(bare, prompt) :]
            known.appended = appended if appended.strip() else known.appended
        first, last = _extent(rest)
        tail_at = max(last, len(prompt)) if first is not None else len(prompt)
        ending = self._ending(index, base, rest, tail_at)
        if ending is None:
            return None
        at = base.end + tail_at
        how = f"{'generation_prompt' if appended.strip() else 'prompt'}/{'eot' if ending[2] else 'content'}"
        warnings = () if ending[2] else (unclosed(index),)
        return Turn(base.end + len(prompt), at + ending[0], at + ending[1], how, appended, warnings)

    def _behind(self, base: Node, count: int, *, prompt: bool = False) -> str | None:
        """Return what a render prints behind a node; None: it has no such node, or the template refuses."""
        try:
            return behind(self.renders.node(count, prompt=prompt), base)
        except RaisedError:
            return None

    def _ending(self, index: int, base: Node, rest: Piece, tail_at: int) -> tuple[int, int, bool] | None:
        """Return what `end_of_turn` does, counted from `tail_at`; None where more has to be looked at."""
        chat, tail = self.chat, rest.text[tail_at:]
        key = (tail, *self.messages[index])
        ending = chat.known.ends.get(key)
        if ending is None:
            try:
                followed = self.renders.node(index + 1, (PROBE,))
            except RaisedError:
                pass  # then nothing that follows tells where it ends
            else:
                if begins(followed, base, rest.text[:tail_at]) and not begins(followed, base, rest.text):
                    return None
            closing = tail.rstrip()
            token = chat.control.last(closing) if closing else None
            begin = token[0] if token is not None else len(closing) - len(closing.lstrip())
            ending = chat.known.ends[key] = (begin, len(closing), True) if closing else (0, 0, False)
        return ending

    def sampled(self, index: int) -> Bounds:
        """Return a turn as it was sampled: where it ends its render, or as its prompt with its own text.

        Raises:
            LayoutError: its bounds can't be told.
        """
        alone = self.alone(index)
        if not alone.turn.spliced:
            return alone
        found = self._sampled.get(index)
        if found is None:
            prompt, turn = self.renders.node(index, prompt=True), alone.turn
            at = turn.start - alone.base.end
            rest = Piece(alone.rest.text[at:], runs_behind(alone.rest.runs, at))
            rest.shown = alone.rest.shown if at <= alone.rest.first else None
            moved = prompt.end - turn.start
            bounds = turn._replace(start=prompt.end, eot_start=turn.eot_start + moved, end=turn.end + moved)
            found = self._sampled[index] = Bounds(
                prompt, self.renders.sender.nodes.then(prompt, rest, index), rest, bounds
            )
        return found

    def whole(self, messages: int) -> Node:
        """Render the first `messages` messages as the last was sampled, or as rendered where that is not a turn."""
        if self.messages[messages - 1].get("role") == "assistant":
            try:
                return self.sampled(messages - 1).shown
            except LayoutError:
                pass
        return self.renders.node(messages)

    def extends(self, index: int, shown: Node) -> bool:
        """Whether a text begins with all of a turn as it was sampled up to its end."""
        own = self.sampled(index)
        return shown is own.shown or begins(shown, own.base, own.own())


def split_off(shown: Node, index: int) -> tuple[Node, Piece]:
    """Return the chain before a message's own piece, and all that is printed behind it.

    Raises:
        UnreplayableError: another place prints of the message, or others behind it.
    """
    tail: list[Piece] = []
    node: Node | None = shown
    while node is not None and node.message == NO_MESSAGE and not node.piece.last:
        tail.append(node.piece)
        node = node.parent
    if node is None or node.message != index or node.parent is None:
        raise UnreplayableError("a turn that prints nothing, or not at the end")
    tail.append(node.piece)
    if len(tail) == 1:
        return node.parent, node.piece
    tail.reverse()
    return node.parent, joined(tail)


def behind(shown: Node, base: Node) -> str | None:
    """Return what a chain prints behind a node; None: it has no such node."""
    texts: list[str] = []
    node: Node | None = shown
    while node is not None and node.end > base.end:
        texts.append(node.piece.text)
        node = node.parent
    if node is not base:
        return None
    texts.reverse()
    return "".join(texts)


def begins(shown: Node, base: Node, more: str) -> bool:
    """Whether a chain prints what another does, and more behind it."""
    wanted, texts = [more], list[str]()
    node: Node | None = shown
    other: Node | None = base
    while node is not other:
        assert node is not None, "all chains begin with the same node"
        assert other is not None, "all chains begin with the same node"
        end = node.end
        if end >= other.end:
            texts.append(node.piece.text)
            node = node.parent
        if other.end >= end:
            wanted.append(other.piece.text)
            other = other.parent
    if len(wanted) == 1:
        return _joined_behind(texts, len(more)).startswith(more)
    first, others = wanted[-1], texts[-1] if texts else ""
    short = min(len(first), len(others))
    if first[:short] != others[:short]:
        return False
    wanted.reverse()
    whole = "".join(wanted)
    return _joined_behind(texts, len(whole)).startswith(whole)


def _joined_behind(texts: list[str], most: int) -> str:
    """Join texts, the last first, until there are `most` characters."""
    got = used = 0
    while used < len(texts) and got < most:
        used += 1
        got += len(texts[-used])
    return texts[-1] if used == 1 else "".join(texts[: -used - 1 : -1])


def _extent(rest: Piece) -> tuple[int | None, int]:
    """Return where the text of a turn's own begins and ends; None, 0 where it has none."""
    position, first, last = 0, None, 0
    for length, from_ in rest.runs:
        if from_ is not None:
            first = position if first is None else first
            last = position + length
        position += length
    return first, last
