"""The pieces of one text of a conversation, and what was found of them."""

from __future__ import annotations

from typing import NamedTuple

from turnloom.masks.domain.rendered_text import TOOLS, Origin
from turnloom.masks.trajectory.chains import NO_MESSAGE, Node
from turnloom.masks.trajectory.programs.program import WHOLE, Piece, UnreplayableError
from turnloom.masks.turns.text_map import TextMap


class Around(NamedTuple):
    """The literals around a message's text, which tell where its turn begins."""

    before: str  #: from the text before it
    behind: str  #: up to the text behind it
    begin: int  #: character in which `before` begins
    until: int  #: characters of the whole text that tell this; WHOLE: all


class PieceLayout:
    """The pieces of one view, and what is told of them. Views begin alike; so far the next need not tell it again."""

    def __init__(self, node: Node, last: PieceLayout | None) -> None:
        """Take over what the last view of the conversation tells of the pieces that both begin with."""
        own: list[Node] = []
        known: dict[int, int] = {} if last is None else last.ids
        one: Node | None = node
        while one is not None and id(one) not in known:
            own.append(one)
            one = one.parent
        own.reverse()
        same = 0 if last is None or one is None else known[id(one)] + 1
        self.nodes: list[Node] = own if last is None else last.nodes[:same] + own
        self.ids: dict[int, int] = {id(one): at for at, one in enumerate(self.nodes)}  #: places of the pieces
        self.at = {one.message: at for at, one in enumerate(self.nodes) if one.message != NO_MESSAGE}
        self.repeated: set[int] = set()  #: messages that two pieces print text of; none of these is their own
        if len(self.at) < sum([one.message != NO_MESSAGE for one in self.nodes]):
            self._choose()
        self.text: TextMap | None = None  #: the whole text by runs, where that was asked for
        #: by untrained assistant message: where it begins, None where that can't be told; up to where the text tells it
        self.begins: dict[int, tuple[int | None, int]] = {}
        #: message, warnings of what is lost of it, and its piece's place; None: not all was looked at
        self.lost: list[tuple[int, list[str], int]] | None = None
        self.skipped: list[int] = []  #: places of the pieces of messages that are trained
        self.outside: set[int] = set()  #: messages of which text was known to stand outside their own pieces
        self._authors: set[int] | None = None
        self.told = 0  #: the first piece of which the last view does not tell what is lost
        if last is None or not same:
            return
        end, told = self.nodes[same - 1].end, same - 1
        while told and not self.nodes[told].piece.last:  # what stands behind a piece counts, up to the next text
            told -= 1
        self.told = told
        self.begins = {index: found for index, found in last.begins.items() if found[1] <= end}
        if last.lost is not None:
            self.lost = [found for found in last.lost if found[2] < told]
            self.skipped = [at for at in last.skipped if at < told]
            self.outside = last.outside

    def _choose(self) -> None:
        """Of several pieces of a message, take the one with text for its own."""
        printed: set[int] = set()
        for at, node in enumerate(self.nodes):
            if node.piece.last and node.message != NO_MESSAGE:
                if node.message in printed:
                    self.repeated.add(node.message)
                printed.add(node.message)
                self.at[node.message] = at
        for index in self.repeated:
            del self.at[index]

    def begins_with(self, node: Node, text: str) -> bool:
        """Whether the text, which this is the layout of, begins with a chain's."""
        behind: list[Node] = []
        while id(node) not in self.ids:
            behind.append(node)
            assert node.parent is not None, "all chains begin with the same node"
            node = node.parent
        return all(text.startswith(one.piece.text, one.end - len(one.piece.text)) for one in reversed(behind))

    def own(self, index: int, start: int, end: int) -> Piece | None:
        """Return a message's own piece if all its text, and no other's, lies between two characters; else None."""
        at = self.at.get(index)
        if at is None:
            return None
        node = self.nodes[at]
        piece, behind = node.piece, node.end
        begin = behind - len(piece.text)
        if not piece.last or begin + piece.last > end or end > behind:
            return None
        return piece if start <= begin + piece.first else None

    def between(self, index: int, start: int, end: int) -> list[tuple[int, str, Origin | None]]:
        """Return the runs from a character of a message's own piece up to another, the outer ones cut."""
        at = self.at.get(index)
        if at is None:
            raise UnreplayableError("a turn without a piece")
        found: list[tuple[int, str, Origin | None]] = []
        while True:
            node = self.nodes[at]
            text, position = node.piece.text, node.end - len(node.piece.text)
            begin = position
            for length, from_ in node.piece.runs:
                first, stop = max(position, start), min(position + length, end)
                if first < stop:
                    found.append((first, text[first - begin : stop - begin], from_))
                position += length
            if position >= end:
                return found
            at += 1

    def around(self, index: int) -> Around | None:
        """Return the literals around a message's text; None: it has none of its own, or no text comes before it."""
        at = self.at.get(index)
        if at is None:
            return None
        node = self.nodes[at]
        text, position = node.piece.text, 0
        first: int | None = None
        last, foreign = 0, len(text)  # where its text ends, and where another's begins
        for length, from_ in node.piece.runs:
            if from_ is not None:
                if from_.message_index != index:
                    foreign = position
                    break
                first = position if first is None else first
                last = position + length
            position += length
        if first is None:
            return None
        before, begin = text[:first], at
        while begin and not self.nodes[begin - 1].piece.last:
            begin -= 1
            before = self.nodes[begin].piece.text + before
        if not begin:
            return None
        other = self.nodes[begin - 1].piece
        before = other.text[other.last :] + before
        behind, until = text[last:foreign], node.end
        if foreign == len(text):
            behind += self.head(at + 1)
            after = next((one for one in range(at + 1, len(self.nodes)) if self.nodes[one].piece.last), len(self.nodes))
            until = self.nodes[after].end if after + 1 < len(self.nodes) else WHOLE
        return Around(before, behind, node.end - len(text) + first - len(before), until)

    def leaves_no_trace(self, index: int) -> bool:
        """Whether nothing is printed of a message, nor of one beside it, so that no literals can be told to be its."""
        if index in self.at:
            return False
        if self._authors is None:
            runs = [from_ for node in self.nodes for _, from_ in node.piece.runs]
            self._authors = {from_.message_index for from_ in runs if from_ is not None}
        authors = self._authors
        if index in authors:
            return False
        return index - 1 not in authors or (index + 1 not in authors and max(authors) > index)

    def head(self, at: int) -> str:
        """Return the literals from a piece on, up to the next text."""
        text = ""
        for place in range(at, len(self.nodes)):
            piece = self.nodes[place].piece
            if piece.last:
                return text + piece.text[: piece.first]
            text += piece.text
        return text

    def prints_tools(self) -> bool:
        """Whether a text of tools is printed outside messages."""
        return any(
            from_ is not None and from_.message_index == TOOLS
            for node in self.nodes
            if node.message == NO_MESSAGE
            for _, from_ in node.piece.runs
        )
