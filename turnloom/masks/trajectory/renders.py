"""The renders of one conversation, made of pieces: what each message contributes is printed once.

A render is a chain of pieces. Renders that begin alike share the beginning of their chain, so that two of them are
compared by looking where they part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from turnloom.masks.domain.conversation import JSON, Message
from turnloom.masks.domain.errors import TemplateRefused
from turnloom.masks.domain.rendered_text import Origin, RenderedText
from turnloom.masks.replay.symbols import RefusedError
from turnloom.masks.template.render import with_reasoning_names
from turnloom.masks.trajectory.program import (
    EMPTY,
    WHOLE,
    Keep,
    Leaf,
    MissError,
    Piece,
    Program,
    UnreplayableError,
    add_run,
)
from turnloom.masks.trajectory.recorder import Family, Recorder, walk

#: Attempts to record what one render lacks: each learns all that it meets.
ATTEMPTS: Final = 2


class Node:
    """The end of a chain of pieces."""

    __slots__ = ("children", "end", "message", "parent", "piece")

    def __init__(self, parent: Node | None, piece: Piece, message: int) -> None:
        self.parent = parent
        self.piece = piece
        self.message = message  #: position of the message that printed it; -1: none did
        self.end: int = (parent.end if parent is not None else 0) + len(piece.text)  #: characters up to here
        self.children: dict[tuple[int, int], Node] = {}

    def then(self, piece: Piece, message: int) -> Node:
        """Return the chain that goes on with a piece."""
        key = (id(piece), message)
        found = self.children.get(key)
        if found is None:
            found = self.children[key] = Node(self, piece, message)
        return found

    def back(self) -> Iterator[Node]:
        """Yield the chain from its end to its beginning."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def text(self) -> str:
        """Return all that is printed."""
        pieces = [node.piece.text for node in self.back()]
        pieces.reverse()
        return "".join(pieces)

    def rendered(self) -> RenderedText:
        """Return the text with the origin of every character."""
        pieces = [node.piece for node in self.back()]
        pieces.reverse()
        runs: list[tuple[int, Origin | None]] = []
        for piece in pieces:
            if not piece.runs:
                continue
            add_run(runs, *piece.runs[0])
            runs += piece.runs[1:]
        return RenderedText("".join([piece.text for piece in pieces]), tuple(runs))


class _Chain:
    """Steps of one loop under one state, as far as no later message can change them."""

    __slots__ = ("keep", "nodes", "states")

    def __init__(self, keep: Any) -> None:
        self.keep = keep  #: what the key names by identity
        self.nodes: list[Node] = []  #: after each step
        self.states: list[Any] = []


class Sender:
    """Renders one conversation, and others that begin as it does, by walking programs."""

    def __init__(self, families: Mapping[str, Family], tools: Sequence[JSON] | None) -> None:
        """Begin with nothing rendered.

        Args:
            families: programs, by more chat_template_kwargs; "": none.
            tools: of the conversation.
        """
        self._families = families
        self._tools = tools
        self._copies: dict[int, tuple[Message, dict[str, Any]]] = {}
        self._kept: dict[Any, Piece] = {}
        self._root = Node(None, EMPTY, -1)
        self._pieces: dict[int, list[Piece]] = {}  #: of each message, by position, -1: of none; those that differ
        self._stateless: dict[tuple[int, int, int], tuple[Piece, int]] = {}
        self._renders: dict[Any, Node] = {}
        self._at: Node = self._root

    def kept(self, keep: Keep) -> Piece:
        """Return what does not depend on messages."""
        found = self._kept.get(keep.key)
        if found is None:
            found = self._kept[keep.key] = self._interned(keep.make(self._tools), -1)
        return found

    def _copy(self, message: Message) -> dict[str, Any]:
        kept = self._copies.get(id(message))
        if kept is None:
            (named,) = with_reasoning_names([message])
            kept = self._copies[id(message)] = message, named
        return kept[1]

    def _interned(self, piece: Piece, message: int) -> Piece:
        known = self._pieces.setdefault(message, [])
        for one in known:
            if one.text == piece.text and one.runs == piece.runs:
                return one
        known.append(piece)
        return piece

    def render(self, messages: Sequence[Message], *, prompt: bool = False, family: Family) -> Node:
        """Return the chain that a render is.

        Raises:
            UnreplayableError: it can't be recorded.
            TemplateRefused: the template raised.
        """
        copies = [self._copy(message) for message in messages]
        for _ in range(ATTEMPTS):
            try:
                return self._walked(copies, prompt, family)
            except MissError:
                self._record(copies, prompt, family)
        raise UnreplayableError

    def _record(self, copies: list[dict[str, Any]], prompt: bool, family: Family) -> None:
        with family.lock:
            try:
                Recorder(family, copies, self._tools, self).record(prompt=prompt)
            except RefusedError as error:
                raise UnreplayableError(str(error)) from error
            except UnreplayableError:
                raise
            except Exception as error:
                raise TemplateRefused(str(error)) from error

    def _walked(self, copies: list[dict[str, Any]], prompt: bool, family: Family) -> Node:
        given = (copies, len(copies), 0, None, None, [self._tools], [None])
        program = family.top(self._tools, prompt=prompt)
        leaf, folds = walk(program, given, self)  # type: ignore[arg-type]
        return self._chained(leaf, given, folds)

    def _chained(self, leaf: Leaf, given: Any, folds: list[Any]) -> Node:
        raise NotImplementedError

    def over_messages(self, program: Program, messages: list[dict[str, Any]], values: list[Any], origins: list[Any]) -> Any:
        """Run a loop over messages and return its pieces."""
        items = program.items
        order = range(items.start, len(messages))
        known, count = len(values), len(messages)
        pieces = []
        for at in reversed(order) if items.backwards else order:
            given = (messages, count, at, messages[at], None, values, origins)
            leaf, folds = walk(program, given, self)  # type: ignore[arg-type]
            pieces.append(leaf.printed(*given, folds))
            del values[known:], origins[known:]
        return pieces


_ = WHOLE
