"""What single messages contributed to earlier renders of their conversation, and when they do so again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from turnloom.masks.trajectory.programs.program import EMPTY, WHOLE, End, Held, Missing, Piece, UnreplayableError

#: Characters of the texts that steps leave in variables: a text that is gathered over messages is another after each.
MOST_GATHERED: Final = 1 << 22
#: Kinds of variables that are counted, and those that may hold such.
_TEXTS: Final = frozenset({str, Piece})
_HOLDING: Final = _TEXTS | {list, dict}
#: Kinds of variables that their values tell apart.
_ATOMS: Final = frozenset({str, int, bool, type(None), type})


class Step:
    """What one message contributed, or it and all behind it: by what was read of namespaces, and what was set."""

    __slots__ = ("free", "held", "leaf", "needs", "piece", "reads", "sets", "state", "until")

    def __init__(
        self,
        piece: Piece,
        needs: int,
        reads: tuple[tuple[int, str, Any], ...],
        sets: tuple[tuple[int, str, Any], ...],
        leaf: End | None = None,
        state: object = None,
        until: int = WHOLE,
        held: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.piece = piece
        self.needs = needs  #: messages that must be known
        self.until = until  #: and at most; WHOLE: however many there are
        self.reads = reads
        self.sets = sets
        self.leaf = leaf  #: of one message
        self.state = state  #: variables that are no namespaces, None where none was asked for
        self.held = held  #: namespaces that may be read in whole, and how many attributes each had
        #: it is the same whatever the variables are
        self.free = leaf.free if leaf is not None and leaf.trail is not None else state is None and not (reads or held)

    def holds(self, given: tuple[Any, ...], state: object) -> bool:
        """Whether a message contributes this again."""
        values: list[Any] = given[5]
        leaf = self.leaf
        if leaf is not None and leaf.trail is not None:
            return _answers(leaf.trail, self.reads, given)
        if self.state is not None and self.state != state:
            return False
        for space, count in self.held:
            if len(values[space]) != count:
                return False
        other = leaf.other if leaf is not None else None
        reads = self.reads
        if other is not None:
            reads = (*[reads[at] for at in other.compared], *reads[len(leaf.reads) :])  # type: ignore[union-attr]
        for space, name, value in reads:
            held = values[space].get(name, Missing)
            if held is not value and not same(held, value):
                return False
        return other is None or _answers(other.holds, [self.reads[at] for at in other.asked], given)

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


def _answers(asked: Callable[..., bool], reads: Sequence[tuple[int, str, Any]], given: tuple[Any, ...]) -> bool:
    """Whether what namespaces hold now gives the answers that led to a step."""
    values: list[Any] = given[5]
    known = len(values)
    values += [values[space].get(name, Missing) for space, name, _ in reads]
    try:
        return bool(asked(*given))
    except Exception:  # a question that can't be put to these: a walk tells
        return False
    finally:
        del values[known:]


def frozen(value: Any) -> object:
    """Return what tells a variable from others; containers are told apart by identity."""
    kind = type(value)
    if kind in _ATOMS:
        return kind, value
    if kind is Held:
        return Held, frozen(value.value), value.origin
    if kind is list or kind is dict:
        return list, id(value)
    if kind is Piece:
        return Piece, value.text, tuple(value.runs)
    return kind, repr(value) if kind is float else value  # 0.0 and -0.0 are printed otherwise


def same(one: Any, other: Any) -> bool:
    """Whether two variables are the same to a body."""
    if one is other or type(one) is not type(other):
        return one is other
    return bool(one == other) if type(one) in _ATOMS else frozen(one) == frozen(other)


def state_of(space: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what tells apart what a namespace holds."""
    return tuple([(name, frozen(value)) for name, value in space.items()])


def restore(values: Sequence[Any], spaces: Sequence[int], states: Sequence[Mapping[str, Any]]) -> None:
    """Give namespaces among the variables what they held."""
    for space, state in zip(spaces, states, strict=True):
        values[space].clear()
        values[space].update(state)


class Gathered:
    """Counts the characters of what namespaces held after the steps of one conversation, each text once."""

    __slots__ = ("_characters", "_counted")

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._characters = 0
        self._counted: dict[int, object] = {}  #: by identity, and kept, so that no other takes its place

    def add(self, values: Iterable[Any], *, inside: bool = False) -> None:
        """Count what steps keep: a text that grows by each message is another text after each.

        Args:
            values: of namespaces.
            inside: also those in lists and dicts. A loop that begins with the first message keeps them once a message,
                as the reference does; others keep them once a render and message.

        Raises:
            UnreplayableError: a template gathers text over too many messages.
        """
        pending, counted = list(values), self._counted
        while pending:
            one = pending.pop()
            if type(one) is Held:
                one = one.value
            kind = type(one)
            if kind not in (_HOLDING if inside else _TEXTS) or id(one) in counted:
                continue
            counted[id(one)] = one
            if kind in _TEXTS:
                self._characters += len(one.text if kind is Piece else one)
            else:
                pending += one if kind is list else one.values()
        if self._characters > MOST_GATHERED:
            raise UnreplayableError("a text that is gathered over many messages")
