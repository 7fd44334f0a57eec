"""Loops over messages, run step by step; what a step contributed before is taken where nothing that it read differs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final

from turnloom.masks.trajectory.chains import LoopPieces, MadeSteps, StableSteps
from turnloom.masks.trajectory.programs.program import EMPTY, WHOLE, Missing, Piece, Program
from turnloom.masks.trajectory.steps import Gathered, Step, Tail, frozen, restore, same, state_of
from turnloom.masks.trajectory.walking import last_message, messages_of, walked

#: The chain of a loop whose steps are told one by one.
_NOTHING: Final = StableSteps()
#: What comes after the last step.
_NOTHING_MORE: Final = Step(EMPTY, 0, (), ())


class _Begun:
    """One loop as it begins in one state: its steps, and what it came to in renders."""

    __slots__ = ("chain", "keep", "results")

    def __init__(self, chain: StableSteps, keep: object) -> None:
        self.chain = chain
        self.keep = keep  #: alive as long as the key names it by identity
        self.results: dict[Any, tuple[LoopPieces, list[dict[str, Any]]]] = {}  #: by the messages shown


class MessageLoops:
    """The loops over messages in the renders of one conversation."""

    interned: Callable[[Piece, int], Piece]  #: gives the piece of this text that a message printed before

    def __init__(self) -> None:
        """Begin with nothing run."""
        self._common = 0  #: messages of the render at hand that are the conversation's
        self._shown: object = 0  #: what tells the messages of the render at hand apart
        #: how far a step must have been told for the render at hand; WHOLE: whatever comes behind the conversation
        self._reached = 0
        self._amount = 0  #: messages of the conversation
        self._steps: dict[tuple[Program, int], list[Step]] = {}
        self._begun: dict[Any, _Begun] = {}
        self._made: dict[Any, MadeSteps] = {}
        self._tails: dict[Any, dict[int, list[Tail]]] = {}
        self._skips: dict[Program, dict[int, int]] = {}
        self._gathered = Gathered()
        #: numbers of messages between which loops ahead, inside the step at hand, come out as they did
        self._since, self._until = 0, WHOLE

    def forget_results(self) -> None:
        """Run loops anew: programs have grown."""
        self._begun.clear()
        self._made.clear()

    def looked(self, needs: int = WHOLE) -> None:
        """Note that a loop inside the step at hand read messages: so many must be known for it to come out so again."""
        self._since = max(self._since, needs)

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
        plain = tuple([(frozen(values[at]), origins[at]) for at in program.told]) if program.told else ()
        if first is not None:
            if (
                self._reached != WHOLE
                and not program.items.backwards
                and self._ahead(program, first, messages, values, origins, plain)
            ):
                return LoopPieces(_NOTHING, 0, [], first, 1)
            order = messages_of(program.items, len(messages), first)
            shown = None if program.items.backwards else self._shown
            made, pieces = self._tailed(program, order, shown, messages, values, origins, plain)
            self._since = max(self._since, _known(made, order), _shown_up_to(program, values))
            self._until = min([self._until, *[step.until for step in made]])
            return pieces
        key = (program, plain, *[state_of(values[space]) for space in spaces])
        begun = self._begun.get(key)
        if begun is None:
            chain = _NOTHING if program.items.backwards else StableSteps()
            begun = self._begun[key] = _Begun(chain, (list(values), list(origins)))
        found = begun.results.get(self._shown)
        if found is None:
            if program.items.backwards:
                order = messages_of(program.items, len(messages), None)
                _, steps = self._tailed(program, order, None, messages, values, origins, plain)
            else:
                steps = self._forwards(program, messages, values, origins, begun.chain, plain)
            found = begun.results[self._shown] = steps, [dict(values[space]) for space in spaces]
        elif spaces:
            restore(values, spaces, found[1])
        return found[0]

    def over_made(
        self,
        program: Program,
        items: list[Any],
        messages: list[dict[str, Any]],
        values: list[Any],
        origins: list[Any],
    ) -> list[Piece]:
        """Run a loop over a list that the template made; what its first items came to is taken from an earlier render.

        Args:
            program: of its body.
            items: of the list; those of an earlier render's list are the same objects.
            messages: all that are shown.
            values: variables.
            origins: theirs.
        """
        spaces, common = program.spaces, self._common
        plain = tuple([(frozen(values[at]), origins[at]) for at in program.told])
        key = (program, plain, *[state_of(values[space]) for space in spaces])
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = MadeSteps((list(values), list(origins)))
        known = made.known(items, common)
        pieces = made.pieces[:known]
        if known:
            restore(values, spaces, made.states[known - 1])
        size = len(values)
        grows = known == len(made.items)
        around = self._since
        for at in range(known, len(items)):
            self._since = last_message(items[at]) + 1
            given: Any = (messages, len(items), at, items[at], None, values, origins)
            leaf, piece = walked(program, given, self)
            del values[size:], origins[size:]
            piece = self.interned(piece, piece.author)
            pieces.append(piece)
            needs = WHOLE if leaf.reach or leaf.counts else self._since
            grows = grows and needs <= common
            for space in spaces:
                self._gathered.add(values[space].values())
            if grows:
                made.add(items[at], piece, needs, [dict(values[space]) for space in spaces])
        self._since = around
        return pieces

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
        given: Any = None
        for step in steps:
            if step.needs > self._common or step.until < self._reached:
                continue
            if not step.free:
                given = given or (messages, len(messages), at, messages[at], None, values, origins)
                if not step.holds(given, state):
                    continue
            for space, name, value in step.sets:
                values[space][name] = value
            return step
        given = given or (messages, len(messages), at, messages[at], None, values, origins)
        known = len(values)
        around = self._since, self._until
        self._since, self._until = 0, WHOLE
        begun = {space: dict(values[space]) for space in program.shared} if program.shared else {}
        leaf, piece = walked(program, given, self)
        needs, until = max(at + leaf.reach + 1, self._since), self._until
        self._since, self._until = around
        if program.shown and leaf.trail is None:  # a trail asks these messages again
            needs = max(needs, _shown_up_to(program, values))
        reads: tuple[Any, ...] = ()
        sets: tuple[Any, ...] = ()
        held: list[tuple[int, int]] = []
        if leaf.reads:
            reads = tuple([(space, name, values[now]) for space, name, now in leaf.reads])
        del values[known:], origins[known:]
        if leaf.sets:
            sets = tuple([(space, name, values[space][name]) for space, name in leaf.sets])
        for space in leaf.shared:  # whatever there is counts as read, and as set
            reads += tuple([(space, *one) for one in begun[space].items()])
            sets += tuple([(space, *one) for one in values[space].items()])
            held.append((space, len(begun[space])))
        if sets:
            again = program.items.backwards or program.items.start < 0
            self._gathered.add([value for _, _, value in sets], inside=again)
        step = Step(piece, needs, reads, sets, leaf, None if leaf.stateless else state, until, held)
        if needs <= self._common:
            steps.append(step)
        return step

    def _forwards(
        self,
        program: Program,
        messages: list[dict[str, Any]],
        values: list[Any],
        origins: list[Any],
        chain: StableSteps,
        plain: tuple[object, ...],
    ) -> LoopPieces:
        first, spaces, common, known_steps = program.items.start, program.spaces, self._common, self._steps
        lasting = WHOLE if self._reached == WHOLE else self._amount
        known = bisect_right(chain.needs, common, hi=chain.lasting if lasting == WHOLE else None)
        need = _shown_up_to(program, values) if program.shown else 0
        if known:
            need = chain.needs[known - 1]
            restore(values, spaces, chain.states[known - 1])
        grows = known == len(chain.pieces)
        edge: list[Piece] = []
        for at in range(first + known, len(messages)):
            steps = known_steps.get((program, at))
            step = steps[0] if steps else None
            if step is None or not step.free or step.sets or step.needs > common or step.until < self._reached:
                step = self._step(program, at, messages, values, origins, plain)
            need = max(need, step.needs)
            if grows and need <= common and step.until >= lasting:
                is_same = bool(chain.states) and not step.sets
                if step.until == WHOLE and chain.lasting == len(chain.pieces):
                    chain.lasting += 1
                chain.pieces.append(step.piece)
                chain.needs.append(need)
                chain.states.append(chain.states[-1] if is_same else [dict(values[space]) for space in spaces])
                known += 1
            else:
                grows = False
                edge.append(step.piece)
        return LoopPieces(chain, known, edge, first, 1)

    def _ahead(
        self,
        program: Program,
        first: int,
        messages: list[dict[str, Any]],
        values: list[Any],
        origins: list[Any],
        plain: tuple[object, ...],
    ) -> bool:
        """Run a loop over later messages whose steps print nothing and read nothing but these; False: it is none.

        Such a loop comes out the same until a message is shown that sets something else.
        """
        spaces, count = program.spaces, len(messages)
        begun = [dict(values[space]) for space in spaces]
        state = [state_of(values[space]) for space in spaces]
        since, until, at = first, self._amount, self._next(program, first, count)
        while at < count:
            step = self._step(program, at, messages, values, origins, plain)
            if not _is_set(step, at):
                restore(values, spaces, begun)
                return False
            before, state = state, [state_of(values[space]) for space in spaces]
            if before != state:
                since = at + 1
            at = self._next(program, at + 1, count)
        at = self._next(program, count, until)
        while at < until:
            steps = self._steps.get((program, at))
            if not (steps and _is_set(steps[0], at) and _keeps(steps[0], values)):
                until = at
                break
            at = self._next(program, at + 1, until)
        self._since, self._until = max(self._since, since), min(self._until, until)
        return True

    def _next(self, program: Program, at: int, stop: int) -> int:
        """Return the first message from one on whose step is not known to do nothing at all."""
        skips = self._skips.setdefault(program, {})
        begin = at
        while at < stop:
            behind = skips.get(at)
            if behind is None:
                steps = self._steps.get((program, at))
                if not steps or not _is_set(steps[0], at) or steps[0].sets:
                    break
                behind = at + 1
            at = behind
        if at > begin:
            skips[begin] = at
        return at

    def _tailed(
        self,
        program: Program,
        order: range,
        shown: object,
        messages: list[dict[str, Any]],
        values: list[Any],
        origins: list[Any],
        plain: tuple[object, ...],
    ) -> tuple[list[Step], LoopPieces]:
        """Run a loop; what comes after a message is remembered by what it reads.

        Args:
            program: of its body.
            order: of the messages.
            shown: what tells the messages shown apart; None: the loop ends with the first, whatever comes last.
            messages: all that are shown.
            values: variables.
            origins: theirs.
            plain: the variables that are no namespaces and may be others in another body.

        Returns:
            The steps that were not remembered, and what all printed.
        """
        made: list[Step] = []
        given = (messages, 0, 0, None, None, values, origins)
        tails = self._tails.setdefault((program, shown, plain), {})
        common = self._common
        also = _shown_up_to(program, values) if program.shown else 0
        rest: Tail | None = None
        for at in order:
            if at in tails and (shown is not None or at < common):
                for one in tails[at]:
                    if one.step.free or one.step.holds(given, plain):
                        rest = one
                        break
                if rest is not None:
                    break
            step = self._step(program, at, messages, values, origins, plain)
            made.append(step)
            if step.leaf is not None and step.leaf.idle:
                break
        pieces: list[Piece] = []
        tail = _NOTHING_MORE
        if rest is not None:
            tail, pieces = rest
            for space, name, value in tail.sets:
                values[space][name] = value
        kept = True
        for index in range(len(made) - 1, -1, -1):
            step, at = made[index], order[index]
            if step.piece is not EMPTY or pieces:  # most such loops print nothing at all
                pieces = [step.piece, *(pieces or [EMPTY] * (len(order) - index - 1))]
            needs = max(step.needs, also)
            lasting = shown is not None or (needs <= at + 1 and step.until == WHOLE and at < common)
            kept = kept and lasting and not step.held
            if kept:
                tail = step.followed(tail)
                tails.setdefault(at, []).append(Tail(tail, pieces))
        return made, LoopPieces(_NOTHING, 0, pieces, order.start, order.step)


def _known(made: Sequence[Step], order: range) -> int:
    """Return how many messages must be known for a loop's steps to be these; WHOLE: all.

    A loop that ended before the last message, as all behind would have done nothing, does so whatever comes behind. One
    that goes back has all its messages before it.
    """
    if order.step < 0:
        return max([order.start + 1, *[step.needs for step in made]])
    if not (made and made[-1].leaf is not None and made[-1].leaf.idle):
        return WHOLE
    return max([step.needs for step in made])


def _shown_up_to(program: Program, values: Sequence[Any]) -> int:
    """Return how many messages must be known for those that a body is given beside its own."""
    return max([values[at] + 1 for at in program.shown], default=0)


def _is_set(step: Step, at: int) -> bool:
    """Whether a step prints nothing, and sets the same whatever was set and whatever comes."""
    return step.free and step.piece is EMPTY and step.needs <= at + 1 and step.until == WHOLE


def _keeps(step: Step, values: Sequence[Any]) -> bool:
    """Whether a step sets what is set already."""
    return all(same(values[space].get(name, Missing), value) for space, name, value in step.sets)
