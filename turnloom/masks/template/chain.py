"""What the steps of one loop printed, and whether another loop's first steps print the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import eq, ge, gt, le, lt, ne
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final, NamedTuple

from jinja2 import Undefined
from jinja2.runtime import Macro
from jinja2.utils import Namespace

from turnloom.masks.template.provenance.runs import Tag
from turnloom.masks.template.provenance.strings import plain, runs_of, traced
from turnloom.masks.template.step_reads import MessageList, Reads, StepLoop

#: What is the same where it is the same object; anything else may have a state.
_STATELESS: Final = (dict, list, tuple, FunctionType, BuiltinFunctionType, type)
_SCALARS: Final = (type(None), bool, int, float)
_KEPT: Final = (*_SCALARS, str, Undefined, *_STATELESS)


def _identities(items: list[Any]) -> list[int]:
    return list(map(id, list.__iter__(items)))


def is_stateless(value: object) -> bool:
    """Whether a value stays what it is while it is the same object."""
    return isinstance(value, _KEPT)


def is_renamed(name: str, value: object) -> bool:
    """Whether a variable is a macro of another name: then what that reads is not among the variables."""
    return type(value) is Macro and value.name != name


def same(one: object, other: object) -> bool:
    """Whether two values print and compare alike; containers are the same where they are one object."""
    if one is other:
        return True
    if isinstance(one, str):
        return type(one) is type(other) and one == other and runs_of(one) == runs_of(other)
    if isinstance(one, Undefined):
        return type(one) is type(other)
    if isinstance(one, float):
        return isinstance(other, float) and repr(one) == repr(other)  # 0.0 and -0.0 are printed otherwise
    return isinstance(one, _SCALARS) and type(one) is type(other) and one == other


def _alike(was: object, now: object) -> bool:
    """Whether a variable can be what it was; namespaces and lists of messages are compared by themselves."""
    if isinstance(was, Namespace) or type(was) is MessageList:
        return type(now) is type(was)
    if type(was) is Macro:
        return type(now) is Macro and was.name == now.name
    return same(was, now)


def _inside(space: Namespace) -> dict[str, object]:
    inside: dict[str, object] = object.__getattribute__(space, "_Namespace__attrs")
    return inside


class Comparison(NamedTuple):
    """A comparison of a loop's index with an attribute of a namespace, of which the body makes no other use."""

    place: int  #: of the namespace among the variables
    attribute: str
    operator: str  #: as Jinja names it
    first: int  #: index of the first message: 1 for `loop.index`
    flipped: bool  #: the attribute stands on the left

    def answer(self, position: int, value: object) -> bool:
        """Return what it says at a position of the loop."""
        index: object = position + self.first
        one, other = (value, index) if self.flipped else (index, value)
        return bool(OPERATORS[self.operator](one, other))


#: Comparisons by their names in Jinja.
OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "gt": gt, "gteq": ge, "lt": lt, "lteq": le, "eq": eq, "ne": ne
}  # fmt: skip


class Chain:
    """What the steps of one loop printed, in order, under what they began with."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        """Begin with no step.

        Args:
            values: the variables around the loop.
        """
        self.values = values
        self.spaces = [at for at, value in enumerate(values) if isinstance(value, Namespace)]
        self.lists = [at for at, value in enumerate(values) if type(value) is MessageList]
        self._begin = self._state(values)
        self._items: list[Any] = []  #: of the steps; alive as long as their ids are compared
        self._next: list[tuple[bool, object]] = []  #: of each step: whether it read what follows, and that
        self._reach: list[int] = []  #: last position read by any step so far
        self._states: list[list[dict[str, object]]] = []  #: what the namespaces hold after each step
        self._read: dict[int, list[Any]] = {at: values[at] for at in self.lists}
        self._text, self._ends = "", list[int]()
        self._runs, self._run_ends = list[tuple[int, Tag]](), list[int]()
        self._traced = False
        self.open = (
            all(map(_is_kept, values))
            and all(is_stateless(value) for state in self._begin for value in state.values())
            and len({id(values[at]) for at in self.spaces}) == len(self.spaces)
        )

    def __len__(self) -> int:
        return len(self._items)

    def forked(self, values: tuple[Any, ...], comparisons: Sequence[Comparison], items: list[Any]) -> Chain | None:
        """Return a chain of the steps that print the same though attributes that are only compared differ; or None.

        Args:
            values: the variables around another loop.
            comparisons: all that the body makes.
            items: the messages of that loop.
        """
        if not (self._items and self.starts(items) and all(map(_alike, self.values, values))):
            return None
        fork, steps = Chain(values), len(self._items)
        changed: list[dict[str, object]] = [{} for _ in self.spaces]
        for comparison in comparisons:
            if comparison.place not in self.spaces:
                return None
            at, name = self.spaces.index(comparison.place), comparison.attribute
            was, now = self._begin[at].get(name), fork._begin[at].get(name)
            if type(was) is not int or type(now) is not int:
                return None
            changed[at][name] = now
            differing = (step for step in range(steps) if comparison.answer(step, was) != comparison.answer(step, now))
            steps = next(differing, steps)
        begun = [{**state, **new} for state, new in zip(self._begin, changed, strict=True)]
        if not (steps and fork.open and all(map(_same_state, begun, fork._begin))):
            return None
        fork._items, fork._next, fork._reach = self._items[:steps], self._next[:steps], self._reach[:steps]
        fork._states = _changed_states(self._states[:steps], changed)
        fork._read = dict(self._read)
        fork._ends, fork._run_ends, fork._traced = self._ends[:steps], self._run_ends[:steps], self._traced
        fork._text, fork._runs = self._text[: fork._ends[-1]], self._runs[: fork._run_ends[-1]]
        return fork

    def _state(self, values: Sequence[Any]) -> list[dict[str, object]]:
        return [dict(_inside(values[at])) for at in self.spaces]

    def begins(self, values: tuple[Any, ...]) -> bool:
        """Whether a loop begins as this one did."""
        if not all(map(_alike, self.values, values)):
            return False
        return all(map(_same_state, self._begin, self._state(values)))

    def starts(self, items: list[Any]) -> bool:
        """Whether it has no step, or a loop over these messages has the same first one."""
        return not self._items or (bool(list.__len__(items)) and list.__getitem__(items, 0) is self._items[0])

    def shared(self, values: tuple[Any, ...], items: list[Any]) -> int:
        """Count the steps that print the same again; drop those that a longer loop continues from otherwise."""
        steps = _common(items, self._items)
        following = list.__getitem__(items, steps) if steps < list.__len__(items) else None
        if steps and self._next[steps - 1][0] and (following is None or self._next[steps - 1][1] is not following):
            steps -= 1
        if steps and self._reach[steps - 1] >= 0:
            read = min(_common(values[at], self._read[at]) for at in self.lists)
            while steps and self._reach[steps - 1] >= read:
                steps -= 1
        if steps < len(self._items) < list.__len__(items):
            self._drop(steps)
        return steps

    def _drop(self, steps: int) -> None:
        for kept in (self._items, self._next, self._reach, self._states, self._ends, self._run_ends):
            del kept[steps:]
        self._text = self._text[: self._ends[-1]] if steps else ""
        del self._runs[self._run_ends[-1] if steps else 0 :]

    def again(self, values: tuple[Any, ...], steps: int) -> str:
        """Set what the first steps set, and return what they printed."""
        for at, state in zip(self.spaces, self._states[steps - 1], strict=True):
            _inside(values[at]).update(state)
        text = self._text[: self._ends[steps - 1]]
        runs = tuple(self._runs[: self._run_ends[steps - 1]])
        return traced(text, runs) if self._traced else text

    def add(self, values: tuple[Any, ...], loop: StepLoop, target: object, reads: Reads, text: str) -> None:
        """Add a step that has just printed."""
        state, items, following = self._state(values), loop.items or [], loop.index0 + 1
        self.open = all(is_stateless(value) for one in state for value in one.values())
        if reads.whole or not self.open or (reads.following and following >= list.__len__(items)):
            return
        self._items.append(target)
        after = list.__getitem__(items, following) if reads.following else None
        self._next.append((reads.following, after))
        self._reach.append(max(reads.reach, self._reach[-1] if self._reach else -1))
        for at in self.lists:
            self._read[at] = values[at]
        same = self._states and all(map(_same_state, self._states[-1], state))
        self._states.append(self._states[-1] if same else state)
        self._traced |= type(text) is not str
        self._text += plain(text)
        self._ends.append(len(self._text))
        self._runs += runs_of(text)
        self._run_ends.append(len(self._runs))


def _common(one: list[Any], other: list[Any]) -> int:
    """Count the objects that two lists share from the beginning."""
    mine, others = _identities(one), _identities(other)
    if mine[: len(others)] == others:
        return len(others)
    if others[: len(mine)] == mine:
        return len(mine)
    return next(at for at, pair in enumerate(zip(mine, others, strict=False)) if pair[0] != pair[1])


def _same_state(one: dict[str, object], other: dict[str, object]) -> bool:
    return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())


def _is_kept(value: object) -> bool:
    return isinstance(value, (Namespace, Macro)) or is_stateless(value) or callable(value)


def _changed_states(
    states: Sequence[list[dict[str, object]]], changed: Sequence[dict[str, object]]
) -> list[list[dict[str, object]]]:
    """Return what namespaces hold after each step with some attributes changed; equal neighbours stay one object."""
    made: list[list[dict[str, object]]] = []
    for at, state in enumerate(states):
        if at and state is states[at - 1]:
            made.append(made[-1])
        else:
            made.append([{**one, **new} for one, new in zip(state, changed, strict=True)])
    return made
