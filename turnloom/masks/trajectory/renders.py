"""The renders of one conversation, made of pieces: what each message contributes is printed once.

A render is a chain of pieces. Renders that begin alike share the beginning of their chain. So two of them are compared
by looking where they part.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from turnloom.masks.domain.conversation import JSON, Message
from turnloom.masks.domain.rendered_text import UNKNOWN, Origin, RenderedText
from turnloom.masks.replay.symbols import RefusedError
from turnloom.masks.template.render import with_reasoning_names
from turnloom.masks.trajectory.program import (
    EMPTY,
    Held,
    Keep,
    Leaf,
    Missing,
    MissError,
    Piece,
    Program,
    UnreplayableError,
    add_run,
)
from turnloom.masks.trajectory.recorder import Family, Recorder, walk, walked

_LOG: Final = logging.getLogger(__name__)
#: Attempts to record what one render lacks: each learns all that it meets.
ATTEMPTS: Final = 2
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
        runs: list[tuple[int, Origin | None]] = []
        for piece in pieces:
            if piece.runs:
                add_run(runs, *piece.runs[0])
                runs += piece.runs[1:]
        return RenderedText("".join([piece.text for piece in pieces]), tuple(runs))


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


class Steps:
    """What the steps of a loop over messages printed: of a chain that later messages can't change, and behind it."""

    __slots__ = ("chain", "count", "edge", "first", "way")

    def __init__(self, chain: Chain, count: int, edge: list[Piece], first: int, way: int) -> None:
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


class Chain:
    """The steps of a loop that begins in one state, as far as no later message can change them."""

    __slots__ = ("keep", "needs", "nodes", "pieces", "states")

    def __init__(self, keep: object = None) -> None:
        self.keep = keep  #: alive as long as the key names it by identity
        self.pieces: list[Piece] = []
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


class Step:
    """What one message contributed, or it and all behind it: by what was read of namespaces, and what was set."""

    __slots__ = ("leaf", "needs", "piece", "reads", "sets", "state")

    def __init__(
        self,
        piece: Piece,
        needs: int,
        reads: tuple[tuple[int, str, Any], ...],
        sets: tuple[tuple[int, str, Any], ...],
        leaf: Leaf | None = None,
        state: object = None,
    ) -> None:
        self.piece = piece
        self.needs = needs  #: messages that must be known
        self.reads = reads
        self.sets = sets
        self.leaf = leaf  #: of one message
        self.state = state  #: variables that are no namespaces, None where none was asked for

    def holds(self, given: tuple[Any, ...], state: object) -> bool:
        """Whether a message contributes this again."""
        values: list[Any] = given[5]
        leaf = self.leaf
        if leaf is None or leaf.trail is None:
            if self.state is not None and self.state != state:
                return False
            return all([_same(values[space].get(name, Missing), value) for space, name, value in self.reads])
        if not leaf.trail:
            return True
        assert leaf.reads is not None, "there is a trail"
        known = len(values)
        values += [values[space].get(name, Missing) for space, name, _ in leaf.reads]
        try:
            return all([ask(*given) == answer for ask, answer in leaf.trail])
        except Exception:  # a question that can't be put to these: a walk tells
            return False
        finally:
            del values[known:]

    def followed(self, other: Step) -> Step:
        """Return what this and another behind it read and set."""
        if not self.sets and self.reads == other.reads:
            return other
        own = {(space, name) for space, name, _ in self.sets}
        later = {(space, name) for space, name, _ in other.sets}
        reads = {(space, name): value for space, name, value in other.reads if (space, name) not in own}
        reads |= {(space, name): value for space, name, value in self.reads}
        sets = [one for one in self.sets if (one[0], one[1]) not in later]
        return Step(EMPTY, 0, tuple([(*key, value) for key, value in reads.items()]), (*sets, *other.sets))


class Tail(NamedTuple):
    """What a loop from the last message on did from one message to its end."""

    step: Step
    pieces: list[Piece]


class Sender:
    """Renders one conversation, and others that begin as it does, by walking programs."""

    def __init__(
        self,
        messages: Sequence[Message],
        tools: Sequence[JSON] | None,
        judge: Callable[[int, Sequence[Message], bool], RenderedText] | None = None,
    ) -> None:
        """Begin with nothing rendered.

        Args:
            messages: of the conversation.
            tools: of the conversation.
            judge: gives what the template prints of so many messages, more behind them, and a prompt or none. What was
                recorded for a render is compared with it; None: it is not.
        """
        self._judge = judge
        self._family: Family | None = None  #: of the render at hand
        self._tools = tools
        self._copies: dict[int, tuple[Message, dict[str, Any]]] = {}
        self.own = [self._copy(message) for message in messages]  #: as templates see them
        self._kept: dict[Any, Piece] = {}
        self.nodes = Nodes()
        self._pieces: dict[int, list[Piece]] = {}  #: of each message, by position: those that differ
        self._steps: dict[tuple[Program, int], list[Step]] = {}
        self._chains: dict[Any, Chain] = {}
        self._tails: dict[Any, list[Tail]] = {}
        self._folds: dict[Any, tuple[Steps, list[dict[str, Any]]]] = {}
        self._renders: dict[Any, Node] = {}
        #: (step, message) of text of a message that is printed elsewhere than by the message's own step
        self.elsewhere: set[tuple[int, int]] = set()
        #: (loop or end of a path, position) -> the message, and what was printed where it alone decides
        self.printed: dict[tuple[object, int], tuple[object, Any]] = {}
        self._common = 0  #: messages of the render at hand that are the conversation's

    def kept(self, keep: Keep) -> Piece:
        """Return what does not depend on messages."""
        found = self._kept.get(keep.key)
        if found is None:
            found = self._kept[keep.key] = self.interned(keep.make(self._tools), NO_MESSAGE)
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
                if from_.message_index >= 0:
                    self.elsewhere.add((message, from_.message_index))
        return piece

    def render(
        self, count: int, more: Sequence[Message] = (), *, prompt: bool = False, family: Family
    ) -> Node:
        """Return the chain that a render is.

        Args:
            count: the first messages of the conversation.
            more: messages behind them.
            prompt: add_generation_prompt.
            family: programs of the template under the settings.

        Raises:
            UnreplayableError: it can't be recorded.
        """
        key = (count, prompt, id(family), *map(id, more))
        found = self._renders.get(key)
        if found is None:
            copies = self.own[:count]
            copies += [self._copy(message) for message in more]
            self._common, self._family = count, family
            paths = family.paths
            found = self._renders[key] = self._rendered(copies, prompt, family)
            if family.paths != paths and self._judge is not None:
                own, wanted = found.rendered(), self._judge(count, more, prompt)
                if own.text != wanted.text or own.runs != wanted.runs:
                    _LOG.error("a recorded render differs from the template's; this template is not recorded any more")
                    family.compiled = None
                    raise UnreplayableError("another render than the template's")
        return found

    def _rendered(self, copies: list[dict[str, Any]], prompt: bool, family: Family) -> Node:
        if family.compiled is None:
            raise UnreplayableError("a template that is not recorded")
        given = (copies, len(copies), 0, None, None, [self._tools], [None])
        for _ in range(ATTEMPTS):
            try:
                leaf, folds = walk(family.top(self._tools, prompt=prompt), given, self)  # type: ignore[arg-type]
                return self._chained(leaf, given, folds)
            except MissError:
                self._record(copies, prompt, family)
            del given[5][1:], given[6][1:]
        raise UnreplayableError("a path that is never complete")

    def _record(self, copies: list[dict[str, Any]], prompt: bool, family: Family) -> None:
        with family.lock:
            try:
                Recorder(family, copies, self._tools, self).record(prompt=prompt)
            except UnreplayableError:
                raise
            except (RefusedError, Exception) as error:
                raise UnreplayableError(str(error)) from error
            finally:
                self._folds.clear()

    def _chained(self, leaf: Leaf, given: Any, folds: list[Any]) -> Node:
        node = self.nodes.root
        for part in leaf.stretches:
            if isinstance(part, int):
                steps = folds[part]
                if type(steps) is Steps:
                    node = steps.after(node, self.nodes)
                else:
                    for piece in steps:
                        node = self.nodes.then(node, self.interned(piece, NO_MESSAGE), NO_MESSAGE)
            else:
                piece = self.interned(part(*given, ()), NO_MESSAGE)
                if piece.text:
                    node = self.nodes.then(node, piece, NO_MESSAGE)
        return node

    def over_messages(
        self,
        program: Program,
        messages: list[dict[str, Any]],
        values: list[Any],
        origins: list[Any],
        first: int | None = None,
    ) -> Steps:
        """Run a loop over messages, from `first` on where that is told; what no later message can change is taken from an earlier render.

        Raises:
            MissError, UnreplayableError: as `walk`.
        """
        spaces = program.spaces
        plain = tuple([_frozen(value) for at, value in enumerate(values) if at not in spaces])
        state = (program, plain, *[tuple([(n, _frozen(v)) for n, v in values[space].items()]) for space in spaces])
        shown = (len(messages), *map(id, messages[self._common :]))
        if first is not None:
            order = range(first, len(messages))
            return self._tailed(program, order, shown, messages, values, origins, plain)
        key = (shown, *state)
        found = self._folds.get(key)
        if found is None:
            if program.items.backwards:
                order = range(len(messages) - 1, program.items.start - 1, -1)
                steps = self._tailed(program, order, None, messages, values, origins, plain)
            else:
                steps = self._forwards(program, messages, values, origins, state, plain)
            found = self._folds[key] = steps, [dict(values[space]) for space in spaces]
        else:
            _restore(values, spaces, found[1])
        return found[0]

    def _step(
        self, program: Program, at: int, messages: list[dict[str, Any]], values: list[Any], origins: list[Any], state: Any
    ) -> Step:
        """Return what one message contributes; take it from an earlier render where nothing that was read differs."""
        steps = self._steps.get((program, at))
        if steps is None:
            steps = self._steps[program, at] = []
        given = (messages, len(messages), at, messages[at], None, values, origins)
        for step in steps:
            if step.needs <= self._common and step.holds(given, state):
                for space, name, value in step.sets:
                    values[space][name] = value
                return step
        known = len(values)
        leaf, piece = walked(program, given, self)  # type: ignore[arg-type]
        needs = at + leaf.reach + 1
        reads = () if leaf.reads is None else tuple([(space, name, values[now]) for space, name, now in leaf.reads])
        del values[known:], origins[known:]
        sets = tuple([(space, name, values[space][name]) for space, name in leaf.sets])
        step = Step(piece, needs, reads, sets, leaf, None if leaf.stateless else state)
        if needs <= self._common and leaf.reads is not None:
            steps.append(step)
        return step

    def _forwards(
        self,
        program: Program,
        messages: list[dict[str, Any]],
        values: list[Any],
        origins: list[Any],
        state: tuple[object, ...],
        plain: tuple[object, ...],
    ) -> Steps:
        first, spaces = program.items.start, program.spaces
        chain = self._chains.get(state)
        if chain is None:
            chain = self._chains[state] = Chain((list(values), list(origins)))
        known = bisect_right(chain.needs, self._common)
        if known:
            _restore(values, spaces, chain.states[known - 1])
        edge: list[Piece] = []
        need = chain.needs[known - 1] if known else 0
        for at in range(first + known, len(messages)):
            step = self._step(program, at, messages, values, origins, plain)
            piece, need = step.piece, max(need, step.needs)
            if not edge and need <= self._common and len(chain.pieces) == at - first:
                chain.pieces.append(piece)
                chain.needs.append(need)
                chain.states.append([dict(values[space]) for space in spaces])
                known += 1
            else:
                edge.append(piece)
        return Steps(chain, known, edge, first, 1)

    def _tailed(
        self,
        program: Program,
        order: range,
        shown: object,
        messages: list[dict[str, Any]],
        values: list[Any],
        origins: list[Any],
        plain: tuple[object, ...],
    ) -> Steps:
        """Run a loop; what comes after a message is remembered by what it reads.

        Args:
            program: of its body.
            order: of the messages.
            shown: what tells the messages shown apart, where those at the end differ; None: the loop ends with the first.
            messages: all that are shown.
            values: variables.
            origins: theirs.
            plain: the variables that are no namespaces.
        """
        made: list[Step] = []
        given = (messages, 0, 0, None, None, values, origins)
        rest: Tail | None = None
        for at in order:
            if shown is not None or at < self._common:
                tails = self._tails.get((program, at, shown, plain), ())
                rest = next((tail for tail in tails if tail.step.holds(given, plain)), None)
                if rest is not None:
                    break
            made.append(self._step(program, at, messages, values, origins, plain))
        if rest is not None:
            for space, name, value in rest.step.sets:
                values[space][name] = value
        tail = rest.step if rest is not None else Step(EMPTY, 0, (), ())
        pieces = rest.pieces if rest is not None else []
        kept = True
        for index in range(len(made) - 1, -1, -1):
            step, at = made[index], order[index]
            if step.piece is not EMPTY or pieces:  # most such loops print nothing at all
                pieces = [step.piece, *(pieces or [EMPTY] * (len(order) - index - 1))]
            kept = kept and step.leaf is not None and step.leaf.reads is not None
            if kept and (shown is not None or (step.needs <= at + 1 and at < self._common)):
                tail = step.followed(tail)
                self._tails.setdefault((program, at, shown, plain), []).append(Tail(tail, pieces))
            else:
                kept = False
        return Steps(_NOTHING, 0, pieces, order.start, order.step)


_NOTHING: Final = Chain()


def _frozen(value: Any) -> object:
    kind = type(value)
    if kind is Held:
        return Held, _frozen(value.value), value.origin
    if kind is list or kind is dict:
        return list, id(value)
    return kind, value


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and _frozen(one) == _frozen(other))


def _restore(values: Sequence[Any], spaces: Sequence[int], states: Sequence[Mapping[str, Any]]) -> None:
    for space, state in zip(spaces, states, strict=True):
        values[space].clear()
        values[space].update(state)
