"""The renders of one conversation, made of pieces: what each message contributes is printed once."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final

from turnloom.masks.domain.conversation import JSON, Message
from turnloom.masks.domain.rendered_text import UNKNOWN, RenderedText
from turnloom.masks.replay.symbols import RefusedError
from turnloom.masks.template.render import with_reasoning_names
from turnloom.masks.trajectory.chains import NO_MESSAGE, LoopPieces, Node, Nodes, StableSteps
from turnloom.masks.trajectory.family import Family
from turnloom.masks.trajectory.program import EMPTY, End, Keep, MissError, Piece, Program, UnreplayableError
from turnloom.masks.trajectory.recorder import Recorder
from turnloom.masks.trajectory.steps import Step, Tail, frozen, restore
from turnloom.masks.trajectory.walking import walk, walked

_LOG: Final = logging.getLogger(__name__)
#: Attempts to record what one render lacks: each learns all that it meets.
ATTEMPTS: Final = 2
#: The chain of a loop whose steps are told one by one.
_NOTHING: Final = StableSteps()


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
        self._chains: dict[Any, StableSteps] = {}
        self._tails: dict[Any, list[Tail]] = {}
        self._folds: dict[Any, tuple[LoopPieces, list[dict[str, Any]]]] = {}
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

    def render(self, count: int, more: Sequence[Message] = (), *, prompt: bool = False, family: Family) -> Node:
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
            family.recorded += 1
            try:
                Recorder(family, copies, self._tools, self).record(prompt=prompt)
            except UnreplayableError:
                raise
            except (RefusedError, Exception) as error:
                raise UnreplayableError(str(error)) from error
            finally:
                self._folds.clear()

    def _chained(self, leaf: End, given: Any, folds: list[Any]) -> Node:
        node = self.nodes.root
        for part in leaf.stretches:
            if isinstance(part, int):
                steps = folds[part]
                if type(steps) is LoopPieces:
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
    ) -> LoopPieces:
        """Run a loop over messages; what no later message can change is taken from an earlier render.

        Args:
            program: of its body.
            messages: all that are shown.
            values: variables.
            origins: theirs.
            first: the first message, where the program does not tell it.

        Raises:
            MissError, UnreplayableError: as `walk`.
        """
        spaces = program.spaces
        plain = tuple([frozen(value) for at, value in enumerate(values) if at not in spaces])
        state = (program, plain, *[tuple([(n, frozen(v)) for n, v in values[space].items()]) for space in spaces])
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
            restore(values, spaces, found[1])
        return found[0]

    def _step(
        self,
        program: Program,
        at: int,
        messages: list[dict[str, Any]],
        values: list[Any],
        origins: list[Any],
        state: Any,
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
    ) -> LoopPieces:
        first, spaces = program.items.start, program.spaces
        chain = self._chains.get(state)
        if chain is None:
            chain = self._chains[state] = StableSteps((list(values), list(origins)))
        known = bisect_right(chain.needs, self._common)
        if known:
            restore(values, spaces, chain.states[known - 1])
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
        return LoopPieces(chain, known, edge, first, 1)

    def _tailed(
        self,
        program: Program,
        order: range,
        shown: object,
        messages: list[dict[str, Any]],
        values: list[Any],
        origins: list[Any],
        plain: tuple[object, ...],
    ) -> LoopPieces:
        """Run a loop; what comes after a message is remembered by what it reads.

        Args:
            program: of its body.
            order: of the messages.
            shown: what tells the messages shown apart; None: the loop ends with the first, whatever comes last.
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
        return LoopPieces(_NOTHING, 0, pieces, order.start, order.step)
