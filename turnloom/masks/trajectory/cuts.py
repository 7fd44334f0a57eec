"""Cut a text of pieces into slots: what a piece holds of control tokens is looked up once a conversation.

The rules are those of `tokenizer.segments.cut`. Wherever a text of a message spells a token that does not count, or the
texts of two pieces touch, that function cuts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from turnloom.masks.domain.options import ControlTokens
from turnloom.masks.domain.rendered_text import Origin, RenderedText
from turnloom.masks.tokenizer.segments import TEXT, CutRules, Segments, cut, utf8_of
from turnloom.masks.tokenizer.tokenizer_json import Prefix
from turnloom.masks.trajectory.chains import Node
from turnloom.masks.trajectory.programs.program import Piece

#: Where a control token stands, from the beginning of a piece, and its id.
Found = tuple[int, int, int]
#: Writes nothing; ends the text of whoever wrote last.
_NOBODY: Final = Origin(-3, "")


class _Core(NamedTuple):
    """A piece between the literals at its ends."""

    begin: int  #: characters of the literal before it
    end: int  #: where the literal behind it begins; == begin where all is one literal
    found: Sequence[Found] | None  #: tokens that count; None: one is spelled that does not, or by two authors


class Cutter:
    """Cuts the views of one conversation."""

    def __init__(self, assistants: AbstractSet[int], rules: CutRules, policy: ControlTokens) -> None:
        """Begin with no piece looked at; arguments as for `cut`."""
        self._assistants, self._rules, self._policy = assistants, rules, policy
        self._cores: dict[int, _Core] = {}
        #: of the last text: its tokens, and behind each node how many there are and where the literal at hand begins
        self._last: tuple[list[Found], list[tuple[Node, int, int]]] = [], []
        self._filled: tuple[Segments, Sequence[int]] = Segments(""), ()  #: of the last text, and its boundaries

    def cut(self, nodes: Sequence[Node], rendered: RenderedText, boundaries: Sequence[int]) -> Segments:
        """Return what `segments.cut` does.

        Args:
            nodes: of the text, in order.
            rendered: the text.
            boundaries: first characters of the assistant turns, ascending.
        """
        same, found = self._found(nodes, rendered.text) if self._rules.table.plain else (0, None)
        if found is None or self._rules.prefix is not Prefix.NEVER:
            self._last = [], []
            return cut(rendered, boundaries, self._assistants, self._rules, self._policy)
        segments = Segments(rendered.text, utf8_of(rendered))
        _fill(segments, found, boundaries, *self._filled, same)
        self._filled = segments, boundaries
        return segments

    def _found(self, nodes: Sequence[Node], text: str) -> tuple[int, list[Found] | None]:
        """Return all control tokens that count, by their places in the text; None: not told here.

        Before them stands how many they begin with that are those of the last text.
        """
        table, cores = self._rules.table, self._cores
        known, places = self._last  # views of one conversation begin alike
        same = 0
        for (other, _, _), node in zip(places, nodes, strict=False):
            if other is not node:
                break
            same += 1
        last, count, literal = places[same - 1] if same else (None, 0, 0)
        shared = count
        position = last.end if last is not None else 0
        found, places = known[:count], places[:same]
        self._last = found, places
        for node in nodes[same:]:
            piece = node.piece
            core = cores.get(id(piece))
            if core is None:
                core = cores[id(piece)] = self._core(piece)
            begin, end, inside = core
            if inside is None:
                return 0, None
            if end > begin:
                first = position + begin
                if first == literal and first:
                    return 0, None  # texts of two pieces touch: they may be one author's
                if first > literal:
                    offset, matches = table.find_in_literal(text, literal, first)
                    for start, stop, token in matches:
                        found.append((start + offset, stop + offset, token.id))
                for start, stop, id_ in inside:
                    found.append((start + position, stop + position, id_))
                literal = position + end
            position += len(piece.text)
            places.append((node, len(found), literal))
        if position == literal:
            return shared, found
        offset, matches = table.find_in_literal(text, literal, position)
        return shared, [*found, *[(start + offset, stop + offset, token.id) for start, stop, token in matches]]

    def _core(self, piece: Piece) -> _Core:
        runs, text = piece.runs, piece.text
        begin = runs[0][0] if runs and runs[0][1] is None else 0
        if not piece.last:
            return _Core(begin, begin, ())
        matches = self._rules.table.find(text, begin, piece.last)
        if not matches:
            return _Core(begin, piece.last, ())  # most texts spell no token
        found: list[Found] = []
        at = position = 0
        author: int | None = None
        for length, from_ in (*runs, (0, _NOBODY)):
            writer = None if from_ is None else from_.message_index
            if writer != author:
                while at < len(matches) and matches[at].start < position:
                    start, stop, token = matches[at]
                    if stop > position:  # of two authors' characters
                        return _Core(begin, piece.last, None)
                    if author is not None and (author not in self._assistants or token.special):
                        return _Core(begin, piece.last, None)
                    found.append((start, stop, token.id))
                    at += 1
                author = writer
            position += length
        return _Core(begin, piece.last, found)


def _fill(
    segments: Segments,
    found: Sequence[Found],
    boundaries: Sequence[int],
    filled: Segments,
    its_boundaries: Sequence[int],
    same: int,
) -> None:
    """Fill in the slots.

    Args:
        segments: to be filled.
        found: the control tokens of its text.
        boundaries: of its text.
        filled: of another text of the conversation. What the two share are the same strings then, encoded once.
        its_boundaries: of that one.
        same: control tokens that they begin with.
    """
    text, position, next_, count = segments.whole, 0, 0, len(boundaries)
    starts, slots, texts = segments.starts, segments.slots, segments.texts
    if same:
        start, position, _ = found[same - 1]
        next_ = bisect_left(boundaries, start)
        if next_ == bisect_left(its_boundaries, start) and boundaries[:next_] == its_boundaries[:next_]:
            at = bisect_left(filled.starts, start) + 1
            starts += filled.starts[:at]
            slots += filled.slots[:at]
            texts += filled.texts[: at - same]
            segments.shares = True
        else:
            position = next_ = same = 0
    for start, end, id_ in (*found[same:], (len(text), len(text), TEXT)):
        if start > position:
            while next_ < count and boundaries[next_] < start:
                if boundaries[next_] > position:
                    starts.append(position)
                    slots.append(TEXT)
                    texts.append(text[position : boundaries[next_]])
                    position = boundaries[next_]
                next_ += 1
            starts.append(position)
            slots.append(TEXT)
            texts.append(text[position:start])
        if id_ == TEXT:
            break
        starts.append(start)
        slots.append(id_)
        position = end
    segments.prefixed = [False] * len(texts)
