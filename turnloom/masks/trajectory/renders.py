"""The renders of one conversation, made of pieces: what each message contributes is printed once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from jinja2 import TemplateError

from turnloom.masks.domain.conversation import JSON, Message
from turnloom.masks.domain.errors import TemplateRefused
from turnloom.masks.domain.rendered_text import TOOLS, UNKNOWN, RenderedText
from turnloom.masks.replay.symbols import RefusedError
from turnloom.masks.template.render import with_reasoning_names
from turnloom.masks.trajectory.chains import NO_MESSAGE, LoopPieces, Node, Nodes, by_author
from turnloom.masks.trajectory.family import Family
from turnloom.masks.trajectory.loops import MessageLoops
from turnloom.masks.trajectory.programs.program import (
    EMPTY,
    WHOLE,
    End,
    Keep,
    MissError,
    Piece,
    Program,
    RaisedError,
    Stretch,
    UnreplayableError,
)
from turnloom.masks.trajectory.recorder import Recorder, said
from turnloom.masks.trajectory.walking import walk

_LOG: Final = logging.getLogger(__name__)
#: Attempts to record what one render lacks: each learns all that it meets.
ATTEMPTS: Final = 2


class Sender(MessageLoops):
    """Renders one conversation, and others that begin as it does, by walking programs."""

    def __init__(
        self,
        messages: Sequence[Message],
        tools: Sequence[JSON] | None,
        judge: Callable[[int, Sequence[Message], bool, Mapping[str, JSON]], RenderedText] | None = None,
    ) -> None:
        """Begin with nothing rendered.

        Args:
            messages: of the conversation.
            tools: of the conversation.
            judge: gives what the template prints of so many messages, more behind them, and a prompt or none, with
                more kwargs. What was recorded for a render is compared with it; None: it is not.
        """
        super().__init__()
        self._judge = judge
        self._family: Family | None = None  #: of the render at hand
        self._tools = tools
        self._copies: dict[int, tuple[Message, dict[str, Any]]] = {}
        self.own = [self._copy(message) for message in messages]  #: as templates see them
        self._kept: dict[Any, Piece] = {}
        self.nodes = Nodes()
        self._pieces: dict[int, list[Piece]] = {}  #: of each message, by position: those that differ
        self._stretches: dict[Stretch, Sequence[tuple[Piece, int]]] = {}  #: what the conversation's first messages tell
        self._renders: dict[Any, Node] = {}
        #: (step, message) of text of a message that is printed elsewhere than by the message's own step
        self.elsewhere: set[tuple[int, int]] = set()
        #: (loop or end of a path, position) -> the message, and what was printed where it alone decides
        self.printed: dict[tuple[object, int], tuple[object, Any]] = {}
        #: what loops printed where only variables decide, what they left in namespaces, and the items and variables: a
        #: key names some by identity
        self.steady: dict[object, tuple[list[Piece], list[dict[str, Any]], list[Any]]] = {}
        self._amount = len(self.own)

    def kept(self, keep: Keep) -> Piece:
        """Return what does not depend on messages."""
        found = self._kept.get(keep.key)
        if found is None:
            found = self._kept[keep.key] = self.interned(keep.make(self._tools, self), NO_MESSAGE)
        return found

    def straightened(self, program: Program) -> Any:
        """Return a program as one function."""
        return self._family.straightened(program) if self._family is not None else None

    def _copy(self, message: Message) -> dict[str, Any]:
        kept = self._copies.get(id(message))
        if kept is None:
            (named,) = with_reasoning_names([message])
            kept = self._copies[id(message)] = message, named
        return kept[1]

    def interned(self, piece: Piece, message: int) -> Piece:
        """Return the piece of this text that a message, or none, printed before; this one where there is none."""
        if not piece.text:
            return EMPTY
        known = self._pieces.setdefault(message, [])
        for one in known:
            if one.text == piece.text and one.runs == piece.runs:
                return one
        known.append(piece)
        for _, from_ in piece.runs:
            if from_ is not None and from_.message_index != message:
                if from_.message_index == UNKNOWN:
                    raise UnreplayableError("text of unknown origin")
                in_reply = message < self._amount and self.own[message].get("role") == "assistant"
                if from_.message_index == TOOLS and in_reply:  # the reference tells where the reply begins
                    raise UnreplayableError("tools in a reply")
                if from_.message_index >= 0:
                    self.elsewhere.add((message, from_.message_index))
        return piece

    def render(
        self,
        count: int,
        more: Sequence[Message] = (),
        *,
        prompt: bool = False,
        family: Family,
        kwargs: Mapping[str, JSON] = MappingProxyType({}),
    ) -> Node:
        """Return the chain that a render is.

        Args:
            count: the first messages of the conversation.
            more: messages behind them.
            prompt: add_generation_prompt.
            family: programs of the template under the settings.
            kwargs: more chat_template_kwargs.

        Raises:
            RaisedError: the template refuses.
            UnreplayableError: it can't be recorded.
        """
        key = (count, prompt, id(family), repr(kwargs) if kwargs else "", *map(id, more))
        found = self._renders.get(key)
        if found is None:
            copies = self.own[:count]
            copies += [self._copy(message) for message in more]
            self._family, self._common = family, count
            self._shown, self._reached = (key, WHOLE) if more else (count, count)
            paths = family.paths
            raised: RaisedError | None = None
            try:
                found = self._renders[key] = self._rendered(copies, prompt, family, kwargs)
            except RaisedError as error:
                raised = error
            if family.paths != paths and self._judge is not None:
                own = None if found is None else found.rendered()
                try:
                    wanted = self._judge(count, more, prompt, kwargs)
                except TemplateRefused:
                    wanted = None
                if (own and (own.text, own.runs)) != (wanted and (wanted.text, wanted.runs)):
                    _LOG.error("a recorded render differs from the template's; this template is not recorded any more")
                    family.compiled = None
                    raise UnreplayableError("another render than the template's")
            if raised is not None:
                raise raised
        assert found is not None, "else it is raised"
        return found

    def _rendered(self, copies: list[dict[str, Any]], prompt: bool, family: Family, kwargs: Mapping[str, JSON]) -> Node:
        if family.compiled is None:
            raise UnreplayableError("a template that is not recorded")
        given = (copies, len(copies), 0, None, None, [self._tools], [None])
        for _ in range(ATTEMPTS):
            try:
                leaf, folds = walk(family.top(self._tools, kwargs, prompt=prompt), given, self)  # type: ignore[arg-type]
                return self._chained(leaf, given, folds)
            except MissError:
                self._record(copies, prompt, family, kwargs)
            del given[5][1:], given[6][1:]
        raise UnreplayableError("a path that is never complete")

    def _record(self, copies: list[dict[str, Any]], prompt: bool, family: Family, kwargs: Mapping[str, JSON]) -> None:
        with family.lock:
            family.recorded += 1
            try:
                Recorder(family, copies, self._tools, self).record(kwargs, prompt=prompt)
            except UnreplayableError:
                raise
            except (RefusedError, Exception) as error:
                raised = type(error) is TemplateError
                raise (RaisedError if raised else UnreplayableError)(said(error)) from error
            finally:
                self.forget_results()

    def _chained(self, leaf: End, given: Any, folds: list[Any]) -> Node:
        node = self.nodes.root
        for part in leaf.stretches:
            if isinstance(part, int):
                steps = folds[part]
                if type(steps) is LoopPieces:
                    node = steps.after(node, self.nodes)
                else:
                    for piece in steps:
                        if piece.text:
                            message = piece.author
                            node = self.nodes.then(node, self.interned(piece, message), message)
            else:
                printed = self._stretches.get(part) if part.needs <= self._common else None
                if printed is None:
                    try:
                        piece = part.printed(*given, ())
                    except UnreplayableError:
                        raise
                    except Exception as error:  # such as a list of texts that has another item now
                        raise UnreplayableError("what can't be printed") from error
                    printed = self._by_message(piece)
                    if part.needs <= self._common:
                        self._stretches[part] = printed
                for one, message in printed:
                    node = self.nodes.then(node, one, message)
        return node

    def _by_message(self, piece: Piece) -> Sequence[tuple[Piece, int]]:
        """Return what is printed at once in pieces: of a text that holds whole turns, one for each message.

        A piece of a message begins with the literals before its text. The whole is kept only where it is not parted: of
        a long conversation every render has another.
        """
        if not piece.text:
            return ()
        own = self.own
        written = {from_.message_index for _, from_ in piece.runs if from_ is not None}
        if len(written) < 2 or not any(0 <= at < len(own) and own[at].get("role") == "assistant" for at in written):
            return ((self.interned(piece, NO_MESSAGE), NO_MESSAGE),)
        found: list[tuple[Piece, int]] = []
        for message, text, runs in by_author(piece):
            if message >= 0:
                if message not in written:
                    return ((self.interned(piece, NO_MESSAGE), NO_MESSAGE),)  # it stands in several places
                written.remove(message)
            author = message if message >= 0 else NO_MESSAGE
            found.append((self.interned(Piece(text, runs), author), author))
        return found
