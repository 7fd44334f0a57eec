"""Chains of pieces: what renders are made of.

Renders that begin alike share the beginning of their chain. So two of them are compared by looking where they part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from turnloom.masks.domain.rendered_text import RenderedText
from turnloom.masks.trajectory.programs.program import EMPTY, Piece, Runs, joined

#: The message of a node that no message's step printed.
NO_MESSAGE: Final = -1


class Node:
    """The end of a chain of pieces."""

    __slots__ = ("end", "message", "parent", "piece", "text_end")

    def __init__(self, parent: Node | None, piece: Piece, message: int) -> None:
        self.parent = parent
        self.piece = piece
        self.message = message  #: position of the message whose step printed it, or NO_MESSAGE
        begin = parent.end if parent is not None else 0
        self.end: int = begin + len(piece.text)  #: characters up to here
        #: end of the last character up to here that is no literal
        self.text_end: int = begin + piece.last if piece.last else parent.text_end if parent is not None else 0

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
        whole = joined(pieces)
        return RenderedText(whole.text, tuple(whole.runs))


class Nodes:
    """The nodes of one conversation: a chain that goes on with the same piece is the same chain."""

    def __init__(self) -> None:
        """Begin with the empty chain."""
        self.root = Node(None, EMPTY, NO_MESSAGE)
        self._after: dict[tuple[int, int, int], Node] = {}  #: nodes live as long as this, so that ids tell them apart

    def then(self, node: Node, piece: Piece, message: int) -> Node:
        """Return the chain that goes on with a piece."""
        key = (id(node), id(piece), message)
        found = self._after.get(key)
        if found is None:
            found = self._after[key] = Node(node, piece, message)
        return found


class LoopPieces:
    """What the steps of a loop over messages printed: of a chain that later messages can't change, and behind it."""

    __slots__ = ("chain", "count", "edge", "first", "way")

    def __init__(self, chain: StableSteps, count: int, edge: list[Piece], first: int, way: int) -> None:
        self.chain = chain
        self.count = count  #: steps of the chain
        self.edge = edge  #: pieces of the steps behind them
        self.first = first  #: position of the first message
        self.way = way  #: 1, or -1: from the last message to the first

    def __bool__(self) -> bool:
        return bool(self.count or self.edge)

    def __iter__(self) -> Iterator[Piece]:
        yield from self.chain.pieces[: self.count]
        yield from self.edge

    def after(self, base: Node, nodes: Nodes) -> Node:
        """Return the chain of nodes that goes on from a node with all steps."""
        node = self.chain.node(base, self.count, self.first, self.way, nodes)
        for at, piece in enumerate(self.edge, self.count):
            if piece is not EMPTY:
                node = nodes.then(node, piece, self.first + self.way * at)
        return node


class StableSteps:
    """The steps of a loop that begins in one state, as far as no later message can change them."""

    __slots__ = ("lasting", "needs", "nodes", "pieces", "states")

    def __init__(self) -> None:
        """Begin with no step."""
        self.pieces: list[Piece] = []
        self.lasting = 0  #: steps that stay the same whatever comes behind the conversation
        self.needs: list[int] = []  #: of the steps up to each: messages that must be known
        self.states: list[list[dict[str, Any]]] = []  #: of the namespaces after each
        self.nodes: dict[int, list[Node]] = {}  #: by the node before

    def node(self, base: Node, count: int, first: int, way: int, made: Nodes) -> Node:
        """Return the chain of nodes after some steps."""
        if not count:
            return base
        nodes = self.nodes.setdefault(id(base), [])
        node = nodes[-1] if nodes else base
        for at in range(len(nodes), count):
            if self.pieces[at] is not EMPTY:
                node = made.then(node, self.pieces[at], first + way * at)
            nodes.append(node)
        return nodes[count - 1]


class MadeSteps:
    """The steps of a loop over a list that the template made, as far as no later item or message can change them."""

    __slots__ = ("items", "keep", "needs", "pieces", "states")

    def __init__(self, keep: object) -> None:
        self.keep = keep  #: alive as long as the key names it by identity
        self.items: list[Any] = []
        self.pieces: list[Piece] = []
        self.needs: list[int] = []  #: messages that must be known for each
        self.states: list[list[dict[str, Any]]] = []  #: of the namespaces after each

    def known(self, items: list[Any], common: int) -> int:
        """Return with how many of these items another list begins, whose messages are all known."""
        known = 0
        for item, other, needs in zip(self.items, items, self.needs, strict=False):
            if item is not other or needs > common:
                break
            known += 1
        return known

    def add(self, item: Any, piece: Piece, needs: int, states: list[dict[str, Any]]) -> None:
        """Keep one more step."""
        self.items.append(item)
        self.pieces.append(piece)
        self.needs.append(needs)
        self.states.append(states)


def by_author(piece: Piece) -> list[tuple[int, str, Runs]]:
    """Part a text where another message's begins: return whose each part is, its text and its runs.

    A part begins with the literals before its text. Those at the end are a part of nobody's, -1.
    """
    found: list[tuple[int, str, Runs]] = []
    runs: Runs = []
    author = None
    begin = position = 0
    literal = 0  #: characters behind the last text
    for length, from_ in piece.runs:
        if from_ is None:
            literal += length
        else:
            if author is not None and from_.message_index != author:
                end = position - literal
                found.append((author, piece.text[begin:end], runs))
                runs, begin = [], end
            if literal:
                runs.append((literal, None))
            runs.append((length, from_))
            author, literal = from_.message_index, 0
        position += length
    if author is not None:
        found.append((author, piece.text[begin : position - literal], runs))
    if literal:
        found.append((-1, piece.text[position - literal :], [(literal, None)]))
    return found
